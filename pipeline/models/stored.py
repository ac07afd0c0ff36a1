"""A stored checkpoint as statistics see it that read whole models: every parameter by name, an adapter's merged."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from analyzers.contract import LowRank
from analyzers.errors import ComputeError, Unmeasurable
from analyzers.models import Checkpoint, ParameterInfo
from pipeline.archive.recipes import Dense, LowRankProduct, Op, digest, to_json
from pipeline.archive.types import MatrixSpec
from pipeline.store.addresses import CheckpointSource
from pipeline.store.load import to_torch

if TYPE_CHECKING:
    from pipeline.store.records import BoundMatrix, CheckpointRecord
    from pipeline.store.store import Store

Update = tuple[tuple[Op, ...], LowRankProduct]
"""Where in a tensor an adapter's Δ is added (the operations that cut its matrix from the tensor), and the Δ."""


def open_checkpoint(store: Store, source: CheckpointSource) -> Checkpoint:
    """The checkpoint with all its parameters; tensors are read when asked for.

    Raises `ComputeError` where it is no longer in the store, `Unmeasurable` where an adapter cannot be merged.
    """
    record = _record(store, source)
    if source.base is None:
        digests = _whole(store, record)
        headers = {t.name: t for t in store.layout(record.layout).tensors}
        infos = tuple(ParameterInfo(n, headers[n].shape, headers[n].dtype, d) for n, d in digests.items())
        read, rows = functools.partial(_read, store, digests, {}), functools.partial(_read_rows, store, digests, {})
        return Checkpoint(source.run, source.step, source.key, record.config, infos, read, rows)
    base = open_checkpoint(store, source.base)
    of_base = _record(store, source.base)
    updates, replaced = _updates(store, record, of_base)
    digests = {**_whole(store, of_base), **replaced}
    infos = tuple(
        ParameterInfo(info.name, info.shape, info.dtype, _merged_key(digests[info.name], updates.get(info.name)))
        for info in base.parameters
    )
    read, rows = (
        functools.partial(_read, store, digests, updates),
        functools.partial(_read_rows, store, digests, updates),
    )
    return Checkpoint(source.run, source.step, source.key, record.config or base.config, infos, read, rows)


def _record(store: Store, source: CheckpointSource) -> CheckpointRecord:
    found = next((r for r in store.revisions(source.run, source.step) if r.revision == source.revision), None)
    if found is None:
        raise ComputeError(f"{source.run}@{source.step} (revision {source.revision}) is no longer in {store.path}")
    return found


def _whole(store: Store, record: CheckpointRecord) -> dict[str, str]:
    digests = store.digests(record)
    missing = next((name for name, found in digests.items() if found is None), None)
    if missing is not None:
        raise Unmeasurable(f"{record.run}@{record.step}: the tensor {missing} could not be read")
    return {name: found for name, found in digests.items() if found is not None}


def _updates(
    store: Store, adapter: CheckpointRecord, base: CheckpointRecord
) -> tuple[dict[str, list[Update]], dict[str, str]]:
    """By the base's tensor names: the Δ that are added, and the digests of tensors that the adapter replaces."""
    specs = {spec.name: spec for spec in store.layout(base.layout).matrices}
    updates: dict[str, list[Update]] = {}
    replaced: dict[str, str] = {}
    used: set[str] = set()
    for matrix in store.matrices(adapter):
        under = specs.get(matrix.spec.name)
        where = f"{adapter.run}@{adapter.step}: {matrix.spec.name}"
        if under is None or not isinstance(under.recipe, Dense):
            raise Unmeasurable(f"{where}: its base has no plain tensor of this name to merge with")
        if isinstance(matrix.recipe, LowRankProduct):
            updates.setdefault(under.recipe.tensor, []).append((under.recipe.ops, matrix.recipe))
        else:
            replaced[under.recipe.tensor] = _replacement(matrix, under, where)
        used.update(_names(store, adapter, matrix))
    digests = store.digests(adapter)
    for name in digests:
        if name not in used:
            target = _module_tensor(name, store.layout(base.layout).tensors)
            if target is None:
                raise Unmeasurable(
                    f"{adapter.run}@{adapter.step}: the adapter's tensor {name} belongs to no parameter of its base"
                )
            replaced[target] = digests[name] or ""
    return updates, replaced


def _names(store: Store, record: CheckpointRecord, matrix: BoundMatrix) -> tuple[str, ...]:
    from pipeline.archive.recipes import tensors_of

    spec = next(s for s in store.layout(record.layout).matrices if s.name == matrix.spec.name)
    return tensors_of(spec.recipe)


def _replacement(matrix: BoundMatrix, under: MatrixSpec, where: str) -> str:
    assert isinstance(matrix.recipe, Dense) and isinstance(under.recipe, Dense)
    if matrix.recipe.ops != under.recipe.ops:
        raise Unmeasurable(f"{where}: the adapter holds a part of a tensor that its base holds otherwise")
    return matrix.recipe.tensor


def _module_tensor(name: str, tensors: tuple[object, ...]) -> str | None:
    """The base's tensor that an adapter's saved tensor (a bias, a norm of modules_to_save) stands for."""
    plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")
    plain = plain.replace(".modules_to_save.", ".").replace(".base_layer.", ".")
    names = [str(getattr(tensor, "name", tensor)) for tensor in tensors]
    hits = [known for known in names if known == plain or known.endswith("." + plain) or plain.endswith("." + known)]
    return hits[0] if len(hits) == 1 else next((known for known in hits if known == plain), None)


def _merged_key(tensor_digest: str, updates: list[Update] | None) -> str:
    if not updates:
        return tensor_digest
    return digest([tensor_digest, [[list(map(list, ops)), to_json(delta)] for ops, delta in updates]])


def _read(store: Store, digests: Mapping[str, str], updates: Mapping[str, list[Update]], name: str) -> torch.Tensor:
    if name not in digests:
        raise ComputeError(f"the checkpoint has no parameter {name!r}")
    tensor = to_torch(store.read_tensor(digests[name]))
    if name not in updates:
        return tensor
    merged = tensor.to(torch.float64)
    for ops, recipe in updates[name]:
        delta = store.load(recipe)
        assert isinstance(delta, LowRank)
        _view(merged, ops).add_(delta.dense(torch.float64))
    return merged.to(tensor.dtype)


def _read_rows(
    store: Store, digests: Mapping[str, str], updates: Mapping[str, list[Update]], name: str, start: int, stop: int
) -> torch.Tensor:
    """Rows of a parameter; one that an adapter changes is merged whole."""
    if name in updates or name not in digests:
        return _read(store, digests, updates, name)[start:stop]
    return to_torch(store.read_tensor(digests[name], (start, stop)))


def _view(tensor: torch.Tensor, ops: tuple[Op, ...]) -> torch.Tensor:
    """The part of a contiguous tensor that `ops` cut, as a view: what is added to it is added to the tensor."""
    for name, *arguments in ops:
        if name == "reshape":
            tensor = tensor.view(arguments)
        elif name == "select":
            tensor = tensor.select(*arguments)
        elif name == "slice":
            axis, start, stop, step = arguments
            tensor = tensor[(slice(None),) * axis + (slice(start, stop, step),)]
        else:
            tensor = tensor.permute(arguments)
    return tensor
