"""Re-hashes what is stored against its digests, and checks that what refers to each other is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from analyzers.errors import StoreError
from pipeline.archive.types import Problem
from pipeline.store.batches import read_batch
from pipeline.store.documents import FILE, document_is_intact, read_document
from pipeline.store.packs import pack_contents
from pipeline.store.records import CheckpointRecord, layout_from_json
from pipeline.store.store import Store
from pipeline.store.tensors import TensorDigest, logical_dtype, open_array, read_rows, row_blocks, tensor_digest

Progress = Callable[[str, int], None]
"""Called after each array or document with its name and bytes."""

_MEND = "delete the file's folder and ingest the checkpoint again with --rehash"


def verify(store: Store, progress: Progress | None = None) -> list[Problem]:
    """Every damage found: a tensor whose bytes do not give its digest, a missing one, an unreadable document.

    Each problem names the file, the tensor with its run and step, and the way out. Reads everything once.
    """
    report = progress or (lambda name, nbytes: None)
    problems: list[Problem] = []
    users = _Users()
    _check_documents(store, users, problems, report)
    known: set[str] = set()
    for folder in _groups(store.path / "tensors", problems):
        known.add(folder.name)
        _check_array(folder, users, problems, report)
    for folder in _groups(store.path / "packs", problems):
        known |= _check_pack(folder, users, problems, report)
    for digest, where in users.by_digest.items():
        if digest not in known:
            problems.append(Problem(str(store.path / "tensors" / digest), "is missing", where, _MEND))
    _document(store.path, problems, report)
    for table in _groups(store.path / "statistics", problems):
        _document(table, problems, report)
        for batch in _groups(table, problems):
            _check_batch(batch, problems, report)
    return problems


class _Users:
    """Which checkpoints use a tensor, so that a damaged one can be named as a person knows it."""

    def __init__(self) -> None:
        self.by_digest: dict[str, str] = {}

    def add(self, record: CheckpointRecord, names: list[str]) -> None:
        for name, digest in zip(names, record.digests, strict=True):
            if digest is not None:
                self.by_digest.setdefault(digest, f"{name} (run {record.run}, step {record.step})")

    def name(self, digest: str) -> str:
        return self.by_digest.get(digest, f"tensor {digest} (no checkpoint uses it)")


def _check_documents(store: Store, users: _Users, problems: list[Problem], report: Progress) -> None:
    layouts: dict[str, list[str]] = {}
    for folder in _groups(store.path / "layouts", problems):
        data = _document(folder, problems, report)
        if data is not None:
            layouts[folder.name] = [tensor.name for tensor in layout_from_json(data["layout"]).tensors]
    for run in _groups(store.path / "runs", problems):
        _document(run, problems, report)
        for folder in _groups(run, problems):
            data = _document(folder, problems, report)
            if data is None:
                continue
            record = CheckpointRecord.from_json(data)
            if record.layout not in layouts:
                reason = f"run {record.run}, step {record.step}: its layout {record.layout} is missing or damaged"
                problems.append(Problem(str(folder / FILE), reason, hint="ingest the checkpoint again with --rehash"))
                continue
            users.add(record, layouts[record.layout])
    for statistic in _groups(store.path / "failures", problems):
        for folder in _groups(statistic, problems):
            _document(folder, problems, report)


def _check_array(folder: Path, users: _Users, problems: list[Problem], report: Progress) -> None:
    who = users.name(folder.name)
    try:
        array = open_array(folder)
        dtype = logical_dtype(str(array.attrs["logical_dtype"]))
    except (StoreError, KeyError) as error:
        problems.append(Problem(str(folder / FILE), f"unreadable metadata: {error}", who, _MEND))
        return
    digest, whole = TensorDigest(dtype.name, array.shape), True
    for first, last in row_blocks(array, 0, array.shape[0] if array.shape else 1):
        try:
            digest.update(read_rows(folder, array, first, last))
        except StoreError as error:
            problems.append(Problem(str(folder), str(error), who, _MEND))
            whole = False
    if whole and digest.hexdigest() != folder.name:
        reason = f"its bytes have digest {digest.hexdigest()}, not {folder.name}"
        problems.append(Problem(str(folder), reason, who, _MEND))
    report(folder.name, array.nbytes)


def _check_pack(folder: Path, users: _Users, problems: list[Problem], report: Progress) -> set[str]:
    """Checks every tensor in a pack; returns what should be in it."""
    try:
        contents = pack_contents(folder)
        array = open_array(folder)
    except StoreError as error:
        problems.append(Problem(str(folder / FILE), f"unreadable metadata: {error}", hint=_MEND))
        return set()
    data, bad = np.empty(array.shape, np.uint8), []
    for first, last in row_blocks(array, 0, array.shape[0]):
        try:
            data[first:last] = read_rows(folder, array, first, last)
        except StoreError as error:
            bad.append((first, last, str(error)))
    for name, place in contents.items():
        start, stop = place.offset, place.offset + place.nbytes
        damage = [error for first, last, error in bad if start < last and first < stop]
        if damage:
            problems.append(Problem(str(folder), damage[0], users.name(name), _MEND))
            continue
        digest = TensorDigest(place.dtype, place.shape)
        digest.update(data[start:stop])
        if digest.hexdigest() != name:
            reason = f"bytes {start} to {stop} have digest {digest.hexdigest()}, not {name}"
            problems.append(Problem(str(folder), reason, users.name(name), _MEND))
    report(folder.name, array.nbytes)
    return set(contents)


def _check_batch(folder: Path, problems: list[Problem], report: Progress) -> None:
    mend = "delete the folder: the next `varve analyze` computes what was in it"
    if _document(folder, problems, report, mend) is None:
        return
    for dtype, expected in read_batch(folder).digests.items():
        path = folder / dtype
        try:
            array = open_array(path)
            values = read_rows(path, array, 0, array.shape[0])
        except StoreError as error:
            problems.append(Problem(str(path), str(error), hint=mend))
            continue
        found = tensor_digest(values)
        if found != expected:
            problems.append(Problem(str(path), f"its values have digest {found}, not {expected}", hint=mend))
        report(str(path), values.nbytes)


def _document(folder: Path, problems: list[Problem], report: Progress, hint: str = _MEND) -> dict[str, Any] | None:
    """A document that is whole; None, and a problem noted, otherwise."""
    try:
        data = read_document(folder)
    except StoreError as error:
        problems.append(Problem(str(folder / FILE), str(error), hint=hint))
        return None
    if not document_is_intact(data):
        problems.append(Problem(str(folder / FILE), "it was changed: its content does not give its digest", hint=hint))
        return None
    report(str(folder), 0)
    return data


def _groups(path: Path, problems: list[Problem]) -> Iterator[Path]:
    """The members of a group, by name; what has no zarr.json is a problem."""
    for entry in sorted(path.iterdir()):
        if entry.name == FILE:
            continue
        if (entry / FILE).exists():
            yield entry
        else:
            problems.append(Problem(str(entry), f"is not part of the store: it has no {FILE}", hint="delete it"))
