"""A stored checkpoint as statistics see it that read whole models: every parameter by name, an adapter's merged.

A head that only the adapter has is a parameter more. One that is tied to the embedding in the base and changed by the
adapter is a parameter of its own, and the config says that it is tied no longer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from analyzers.contract import LowRank
from analyzers.errors import ComputeError, Unmeasurable
from analyzers.models import ParameterInfo, WholeCheckpoint
from pipeline.archive.heads import is_head, stands_like, tied_name, turned
from pipeline.archive.names import without_wrappers
from pipeline.archive.recipes import Dense, LowRankProduct, Op, digest, tensors_of, to_json
from pipeline.archive.types import Layout
from pipeline.store.load import to_torch
from pipeline.units.addresses import CheckpointRef

if TYPE_CHECKING:
    from pipeline.store.records import BoundMatrix, CheckpointRecord
    from pipeline.store.store import Store

Update = tuple[tuple[Op, ...], LowRankProduct]
"""Where in a tensor an adapter's Δ is added (the operations that cut its matrix from the tensor), and the Δ."""


def open_checkpoint(store: Store, source: CheckpointRef) -> WholeCheckpoint:
    """The checkpoint with all its parameters; tensors are read when asked for.

    Raises `ComputeError` where it is no longer in the store, `Unmeasurable` where an adapter cannot be merged.
    """
    record = _record(store, source)
    if source.base is None:
        stored = _whole(store, record)
        headers = {t.name: t for t in store.layout(record.layout).tensors}
        names = dict(zip(without_wrappers(list(stored)), stored, strict=True))
        digests = {name: stored[there] for name, there in names.items()}
        infos = tuple(ParameterInfo(n, headers[names[n]].shape, headers[names[n]].dtype, digests[n]) for n in names)
        read, rows = functools.partial(_read, store, digests, {}), functools.partial(_read_rows, store, digests, {})
        return WholeCheckpoint(source.run, source.step, source.key, record.config, infos, read, rows)
    of_base = _record(store, source.base)
    merge = _merge(store, record, of_base)
    digests = {**_whole(store, of_base), **merge.tensors}
    described = {t.name: (t.shape, t.dtype) for t in store.layout(of_base.layout).tensors} | merge.headers
    infos = tuple(
        ParameterInfo(name, shape, dtype, _merged_key(digests[name], merge.updates.get(name)))
        for name, (shape, dtype) in described.items()
    )
    read, rows = (
        functools.partial(_read, store, digests, merge.updates),
        functools.partial(_read_rows, store, digests, merge.updates),
    )
    config = record.config or of_base.config
    config = {**config, "tie_word_embeddings": False} if merge.unties else config
    return WholeCheckpoint(source.run, source.step, source.key, config, infos, read, rows)


def _record(store: Store, source: CheckpointRef) -> CheckpointRecord:
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


@dataclass
class _Merge:
    """What an adapter does to its base's parameters, by their names.

    `updates`: the Δ that are added. `tensors`: digests of those that it replaces or adds, and `headers` their shapes
    and dtypes. `unties`: it changes a head that is the embedding in its base.
    """

    updates: dict[str, list[Update]] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    headers: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    unties: bool = False


def _merge(store: Store, adapter: CheckpointRecord, base: CheckpointRecord) -> _Merge:
    """The adapter on its base. `Unmeasurable` where a tensor of it is not understood."""
    layout, under = store.layout(adapter.layout), store.layout(base.layout)
    made_of = {spec.name: tensors_of(spec.recipe) for spec in layout.matrices}
    headers = {tensor.name: (tensor.shape, tensor.dtype) for tensor in layout.tensors}
    of_base = {tensor.name: (tensor.shape, tensor.dtype) for tensor in under.tensors}
    digests = store.digests(adapter)
    merge = _Merge()
    used: set[str] = set()
    equal = [twin for twin in store.twins(adapter) if isinstance(twin.recipe, LowRankProduct)]  # to another module's Δ
    for matrix in (*store.matrices(adapter), *equal):
        tensors = made_of[matrix.spec.name]
        used.update(tensors)
        place, tied = _place(matrix, under, base, f"{adapter.run}@{adapter.step}")
        name = place.tensor if place is not None and not tied else _plain(tensors[0])
        merge.unties |= tied
        if not isinstance(matrix.recipe, LowRankProduct):
            merge.tensors[name] = matrix.recipe.tensor if isinstance(matrix.recipe, Dense) else ""
            merge.headers[name] = headers[tensors[0]]
        elif place is not None:  # the Δ of a head that its base has not stands on weights that are in no file
            merge.updates.setdefault(name, []).append((place.ops, matrix.recipe))
            merge.tensors.setdefault(name, store.digests(base)[place.tensor] or "")
            merge.headers.setdefault(name, of_base[place.tensor])
    for name in digests.keys() - used:
        target = _module_tensor(_plain(name), tuple(of_base))
        if target is None and (".base_layer." in name or ".original_module." in name):
            continue  # of a tied head: its base holds the one tensor of both
        if "lora_" in name:
            raise Unmeasurable(
                f"{adapter.run}@{adapter.step}: the adapter's tensor {name} belongs to no parameter of its base"
            )
        merge.tensors[target or _plain(name)] = digests[name] or ""
        merge.headers[target or _plain(name)] = headers[name]
    return merge


def _place(matrix: BoundMatrix, under: Layout, base: CheckpointRecord, where: str) -> tuple[Dense | None, bool]:
    """Where in its base an adapter's matrix stands, None where its base has it not; and whether that is a tie."""
    specs = {spec.name: spec for spec in under.matrices}
    name, tied = matrix.spec.name, False
    if name not in specs:
        other = tied_name(matrix.spec, under.matrices, base.config)
        name, tied = other or name, other is not None
    if name not in specs:
        if isinstance(matrix.recipe, LowRankProduct) and not is_head(name, matrix.spec.kind):
            raise Unmeasurable(f"{where}: {name}: its base has no plain tensor of this name to merge into")
        return None, False
    recipe = specs[name].recipe
    if not isinstance(recipe, Dense):
        raise Unmeasurable(f"{where}: {name}: its base has no plain tensor of this name to merge into")
    recipe = recipe if stands_like(matrix.spec, specs[name]) else turned(recipe)
    if isinstance(matrix.recipe, Dense) and matrix.recipe.ops != recipe.ops:
        raise Unmeasurable(
            f"{where}: {name}: the adapter changes part of a tensor that its base stores in another layout"
        )
    return recipe, tied


def _plain(name: str) -> str:
    """The parameter's name in the model that an adapter's tensor belongs to."""
    name = re.sub(r"\.modules_to_save\.(?:default\.)?", ".", name.removeprefix("base_model.model."))
    return re.sub(r"\.lora_.*$", ".weight", name).replace(".base_layer.", ".").replace(".original_module.", ".")


def _module_tensor(plain: str, names: Sequence[str]) -> str | None:
    """The base's tensor that an adapter's saved tensor (a bias, a norm of modules_to_save) stands for."""
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
