"""A report on disk: `report.zarr`, written whole or not at all, opened by `xarray.open_datatree`."""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any

import xarray as xr
import zarr

from analyzers.errors import ReportError
from pipeline.report.tables import datasets_of, storable

SCHEMA = 1
"""Version of the tree's form: the root attribute `varve_report`."""
CHUNK_BYTES = 64 * 2**20


def save(tree: xr.DataTree, path: Path | str) -> Path:
    """Writes the tree as a Zarr v3 group at `path` and returns the path.

    The tree is written beside the target under a temporary name, then renamed, so that a reader sees the older
    report or the whole new one. An existing report is replaced; anything else at `path` raises `ReportError`.
    """
    target = Path(path)
    if target.exists() and not is_report(target):
        raise ReportError(f"{target} exists and is not a varve report: choose another path, or remove it yourself")
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(tree, fresh)
        _swap(fresh, target)
    except OSError as error:
        raise ReportError(f"cannot write the report {target}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _write(tree: xr.DataTree, path: Path) -> None:
    datasets = datasets_of(tree)
    for group, dataset in datasets.items():
        plain = storable(dataset)
        if group == "/":
            plain.attrs["varve_report"] = SCHEMA
            plain.attrs["varve_order"] = json.dumps({path: list(map(str, d.data_vars)) for path, d in datasets.items()})
        chunks = {str(name): chunks_of(variable) for name, variable in plain.variables.items()}
        encoding = {name: {"chunks": chosen} for name, chosen in chunks.items() if chosen}
        plain.to_zarr(path, group=group, mode="a", consolidated=False, zarr_format=3, encoding=encoding)
    with warnings.catch_warnings():
        # zarr warns that v3 has not standardised consolidated metadata; readers without it read the groups' own.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


def chunks_of(variable: xr.Variable) -> tuple[int, ...]:
    """One chunk per array up to 64 MiB, then even blocks of the first axis: few files, little padding."""
    if not variable.shape:
        return ()
    blocks = -(-variable.nbytes // CHUNK_BYTES) or 1
    first = -(-variable.shape[0] // min(blocks, max(variable.shape[0], 1)))
    return (max(first, 1), *(max(size, 1) for size in variable.shape[1:]))


def _swap(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    older = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    target.rename(older)
    try:
        fresh.rename(target)
    except OSError:
        older.rename(target)
        raise
    shutil.rmtree(older)


def load(path: Path | str) -> xr.DataTree:
    """Opens a report; arrays are read when they are used. Raises `ReportError` when `path` is not a report."""
    source = Path(path)
    attributes = root_attributes(source)
    version = attributes.get("varve_report")
    if version is None:
        if "varve_schema" in attributes:
            raise ReportError(f"{source} is a varve store, not a report: make one with `varve report {source} --out …`")
        raise ReportError(f"{source} is not a varve report: its root has no attribute `varve_report`")
    if version != SCHEMA:
        raise ReportError(f"{source} has report form {version}, this varve reads {SCHEMA}: run `varve report` again")
    opened = xr.open_datatree(source, engine="zarr", consolidated=True, chunks=None)
    return _ordered(opened, json.loads(attributes.get("varve_order", "{}")))


def _ordered(tree: xr.DataTree, order: dict[str, list[str]]) -> xr.DataTree:
    """Nodes and variables in the order in which they were saved; Zarr lists them by name."""
    datasets = datasets_of(tree)
    paths = [path for path in order if path in datasets] + [path for path in datasets if path not in order]
    ordered = {}
    for path in paths:
        names = [name for name in order.get(path, ()) if name in datasets[path].data_vars]
        rest = [name for name in datasets[path].data_vars if name not in names]
        ordered[path] = datasets[path][[*names, *rest]]
    ordered["/"].attrs.pop("varve_order", None)
    return xr.DataTree.from_dict(ordered)


def is_report(path: Path) -> bool:
    """Whether `path` is a folder that `save` wrote."""
    try:
        return "varve_report" in root_attributes(path)
    except ReportError:
        return False


def root_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a report's root, from its one document. Raises `ReportError` where there is none."""
    document = path / "zarr.json"
    if not path.exists():
        raise ReportError(f"there is no report at {path}")
    if not document.is_file():
        raise ReportError(f"{path} is not a varve report: it has no zarr.json")
    try:
        attributes = json.loads(document.read_text()).get("attributes", {})
    except (OSError, ValueError, AttributeError) as error:
        raise ReportError(f"{path} is not a readable report: {document}: {error}") from error
    return dict(attributes)
