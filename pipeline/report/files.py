"""A report on disk: `report.zarr`, written whole or not at all, opened by `xarray.open_datatree`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from analyzers.errors import ReportError
from pipeline.report.checks import FILES, SEAL, CheckedFiles, Files, damaged_files, files_of, seal
from pipeline.report.swap import fresh_path, remove, replace_folder, sweep
from pipeline.report.tables import datasets_of, storable

SCHEMA = 1
"""Version of the tree's form: the root attribute `varve_report`."""
CHUNK_BYTES = 64 * 2**20
TOGETHER_BYTES = 64 * 2**20
"""Of a node's arrays, so many are encoded at a time: xarray reads all that it is to write at once."""


def save(tree: xr.DataTree, path: Path | str) -> Path:
    """Writes the tree as a Zarr v3 group at `path` and returns the path.

    The tree is written beside the target under a temporary name, then takes its place in one step, so that a reader
    sees the older report or the whole new one. An existing report is replaced, a damaged one as well; anything else at
    `path` raises `ReportError`.
    """
    target = Path(path)
    try:
        if target.exists() and not _is_ours(target):
            raise ReportError(
                f"{target} already exists and is not a varve report: choose another path, or delete it yourself"
            )
        fresh = fresh_path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        try:
            _write(tree, fresh)
            seal(fresh)
            replace_folder(fresh, target)
        finally:
            if fresh.exists():
                remove(fresh)
    except OSError as error:
        raise ReportError(f"cannot write the report {target}: {error}") from error
    return target


def _write(tree: xr.DataTree, path: Path) -> None:
    datasets = datasets_of(tree)
    for group, dataset in datasets.items():
        plain = storable(dataset)
        if group == "/":
            plain.attrs["varve_report"] = SCHEMA
            plain.attrs["varve_order"] = json.dumps({path: list(map(str, d.data_vars)) for path, d in datasets.items()})
        written: set[str] = set()
        for names in _together(plain):
            part = plain.drop_vars([name for name in plain.data_vars if name not in names])
            new = {str(name): variable for name, variable in part.variables.items() if str(name) not in written}
            part.to_zarr(
                path,
                group=group,
                mode="a",
                consolidated=False,
                zarr_format=3,
                encoding={name: _encoding(variable) for name, variable in new.items()},
                write_empty_chunks=True,  # a chunk that is missing is damage, and never a saving
            )
            written.update(new)
    with warnings.catch_warnings():
        # zarr warns that v3 has not standardised consolidated metadata; readers without it read the groups' own.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


def _together(dataset: xr.Dataset) -> list[list[Hashable]]:
    """The variables in parts of `TOGETHER_BYTES`, in order; one larger than that by itself. One part at least."""
    parts: list[list[Hashable]] = [[]]
    size = 0
    for name, array in dataset.data_vars.items():
        if parts[-1] and size + array.nbytes > TOGETHER_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += array.nbytes
    return parts


def _encoding(variable: xr.Variable) -> dict[str, Any]:
    chunks = chunks_of(variable)
    return {"compressors": [ZstdCodec(), Crc32cCodec()], **({"chunks": chunks} if chunks else {})}


def chunks_of(variable: xr.Variable) -> tuple[int, ...]:
    """One chunk per array up to 64 MiB, then even blocks of the first axis: few files, little padding."""
    if not variable.shape:
        return ()
    blocks = -(-variable.nbytes // CHUNK_BYTES) or 1
    first = -(-variable.shape[0] // min(blocks, max(variable.shape[0], 1)))
    return (max(first, 1), *(max(size, 1) for size in variable.shape[1:]))


def load(path: Path | str) -> xr.DataTree:
    """Opens a report; arrays are read when they are used, and their checksums are then checked. Raises `ReportError`
    when `path` is not a report, when one of its files is missing, and at reading when one is damaged."""
    source = Path(path)
    document, files = _opened(source)
    wrong = damaged_files(source, files, contents=False) if files is not None else []
    if wrong:
        raise ReportError(wrong[0] + (f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""))
    store: Any = source if files is None else CheckedFiles(source, files)  # xarray takes it; its annotation does not
    opened = xr.open_datatree(store, engine="zarr", consolidated=True, chunks=None)
    return _ordered(opened, json.loads(document["attributes"].get("varve_order", "{}")))


def verify_report(path: Path | str) -> list[str]:
    """Every file of a report that is missing or damaged, one sentence each. Raises `ReportError` when `path` is no
    report, or of an older varve, which wrote no checksums."""
    source = Path(path)
    document = _root_document(source)
    try:
        files = _opened(source)[1]
    except ReportError as error:
        if "varve_report" in document["attributes"]:
            return [str(error)]
        raise
    if files is None:
        raise ReportError(
            f"{source} has no checksums, because an older varve wrote it; `varve report STORE` recreates it"
        )
    return damaged_files(source, files)


def _opened(source: Path) -> tuple[dict[str, Any], Files | None]:
    """The root's metadata, checked, and the files that they name."""
    document = _root_document(source)
    attributes = document["attributes"]
    version = attributes.get("varve_report")
    if version is None:
        if "varve_schema" in attributes:
            raise ReportError(f"{source} is a varve store, not a report: make one with `varve report {source} --out …`")
        raise ReportError(f"{source} is not a varve report: its root has no attribute `varve_report`")
    if version != SCHEMA:
        raise ReportError(
            f"{source} has report format {version!r:.20}, but this varve reads {SCHEMA}: run `varve report` again"
        )
    return document, files_of(document, source)


def _ordered(tree: xr.DataTree, order: dict[str, list[str]]) -> xr.DataTree:
    """Nodes and variables in the order in which they were saved; Zarr lists them by name."""
    datasets = datasets_of(tree)
    paths = [path for path in order if path in datasets] + [path for path in datasets if path not in order]
    ordered = {}
    for path in paths:
        names = [name for name in order.get(path, ()) if name in datasets[path].data_vars]
        rest = [name for name in datasets[path].data_vars if name not in names]
        ordered[path] = datasets[path][[*names, *rest]]
    for name in ("varve_order", FILES, SEAL):
        ordered["/"].attrs.pop(name, None)
    return xr.DataTree.from_dict(ordered)


def is_report(path: Path) -> bool:
    """Whether `path` is a folder that `save` wrote."""
    try:
        return "varve_report" in _root_document(path)["attributes"]
    except ReportError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether `path` is a report, or what damage left of one: its metadata name it still."""
    if is_report(path):
        return True
    document = path / "zarr.json"
    return document.is_file() and b"varve_report" in document.read_bytes()


def root_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a report's root, from its one document. Raises `ReportError` where there is none."""
    return dict(_root_document(path)["attributes"])


def _root_document(path: Path) -> dict[str, Any]:
    """The root's metadata, whose attributes are a mapping."""
    document = path / "zarr.json"
    if not path.exists():
        raise ReportError(f"there is no report at {path}")
    if not document.is_file():
        raise ReportError(f"{path} is not a varve report: it has no zarr.json")
    try:
        read: dict[str, Any] = json.loads(document.read_bytes())
        return {**read, "attributes": dict(read.get("attributes", {}))}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ReportError(f"{path} is not a readable report: {document}: {error!s:.200}") from error
