"""One group of units on one worker: references in, small arrays out.

Called in a process that knows nothing but the store's path. Tensors are read here, one after the other, and none is
kept: a worker's memory does not grow with the archive.
"""

from __future__ import annotations

import functools
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyzers.contract import Cache, Content, Context, LowRank, Matrix, Observation, Result, Sum, Unit, no_cache
from analyzers.errors import ComputeError, ContractError, ParameterError, ResourceError, Unmeasurable
from pipeline.archive.recipes import Dense, Merged, Recipe
from pipeline.compute.allocator import keep_freed_memory
from pipeline.compute.groups import Group
from pipeline.compute.profile import numerics
from pipeline.compute.room import free, with_room
from pipeline.models.opening import MODELS
from pipeline.models.stored import open_checkpoint
from pipeline.store.cache import DiskCache, cache_path
from pipeline.store.clock import Ledger, Spent, is_running, spend
from pipeline.store.statistics import ResultReference, read_references
from pipeline.store.store import Store, store_identity
from pipeline.units.addresses import MatrixRef, Member, UnitRef
from pipeline.units.keys import seed_of
from pipeline.units.reasons import of_input

MAX_RESULT_BYTES = 64 * 2**20
CACHE_BYTES = 20 * 10**9
_KINDS = "biufcSU"

Held = weakref.WeakValueDictionary[Dense, torch.Tensor]
"""The base of an adapter that one observation has loaded, for as long as a statistic keeps it."""


@dataclass(frozen=True)
class Previous:
    """A stored result over the first `count` steps of a run's statistic that grows."""

    count: int
    reference: ResultReference


@dataclass(frozen=True)
class GroupWork:
    """A group with the places of the stored results it needs: `inputs` of all its units, `previous` by unit key."""

    group: Group
    inputs: tuple[ResultReference, ...] = ()
    previous: Mapping[str, Previous] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitOutcome:
    """What came of one unit: a `result`, or a `reason` why the data have none, or an `error` with its traceback.

    `final` marks an error that a retry cannot fix, `no_room` one that is lack of memory. `device` and `seconds`
    (the unit's share of its group's wall time) go into the provenance.
    """

    key: str
    result: Result | None = None
    reason: str | None = None
    error: str | None = None
    traceback: str = ""
    final: bool = False
    no_room: bool = False
    device: str = "cpu"
    seconds: float = 0.0
    spent: Spent = field(default_factory=dict)


def run_group(
    store_path: str | Path,
    work: GroupWork | Group,
    device: str = "cpu",
    cache_bytes: int = CACHE_BYTES,
    profile: bool = False,
) -> list[UnitOutcome]:
    """Computes the units of a group, each answering for itself. `device`: "cpu", "cuda", or "auto" for what there is.
    The cache of large intermediates beside the store keeps at most `cache_bytes` (0: nothing). `profile`: each outcome
    carries its share of the time that the group took, phase by phase.

    Raises only what concerns the group as a whole: a store that cannot be opened, a device that is not there.
    """
    keep_freed_memory()
    work = work if isinstance(work, GroupWork) else GroupWork(work)
    if not profile:
        return _run(store_path, work, device, cache_bytes)
    ledger = Ledger()
    with ledger.running():
        outcomes = _run(store_path, work, device, cache_bytes)
    share = {phase: seconds * (1 / len(outcomes)) for phase, seconds in ledger.spent.items()}
    return [replace(outcome, spent=share) for outcome in outcomes]


def _run(store_path: str | Path, work: GroupWork, device: str, cache_bytes: int) -> list[UnitOutcome]:
    group = work.group
    on = _device(device if group.device == "any" else "cpu")
    store = _store(str(store_path))
    stored = _stored(str(store_path), work)
    cache = _cache(str(store_path), cache_bytes)
    outcomes: dict[str, UnitOutcome] = {}
    waiting = group.units
    for place in (on, torch.device("cpu")):  # what does not fit on a device even alone is computed beside it
        units: list[tuple[UnitRef, Unit]] = []
        for address in waiting:
            unit = _unit(store, address, work, stored, place)
            if isinstance(unit, str):
                outcomes[address.key] = UnitOutcome(address.key, reason=unit)
            else:
                units.append((address, unit))
        outcomes.update((outcome.key, outcome) for outcome in _compute(group, units, place, cache))
        waiting = tuple(address for address in waiting if outcomes[address.key].no_room)
        if not waiting or place.type == "cpu":
            break
        del units
        free()
    return [outcomes[address.key] for address in group.units]


def _compute(group: Group, units: Sequence[tuple[UnitRef, Unit]], on: torch.device, cache: Cache) -> list[UnitOutcome]:
    if not units:
        return []

    def batch(some: Sequence[tuple[UnitRef, Unit]]) -> Sequence[Any]:
        contexts = [Context(on, seed_of(address.key), cache, MODELS) for address, _ in some]
        results = group.statistic.compute_batch([unit for _, unit in some], contexts)
        if len(results) != len(some):
            wrong = f"compute_batch of {group.statistic.name!r} returned {len(results)} results for {len(some)} units"
            return [ContractError(wrong)] * len(some)
        return results

    started = time.perf_counter()
    try:
        with spend(numerics(group.statistic, group) if is_running() else "fit"):
            results: list[Any] = with_room(batch, units)
    except Exception as error:  # all of the group are tried again alone, where each answers for itself
        results = [error] * len(units)
    named = f"{on} ({torch.cuda.get_device_name(on)})" if on.type == "cuda" else str(on)
    seconds = (time.perf_counter() - started) / len(units)
    return [_outcome(address, result, named, seconds) for (address, _), result in zip(units, results, strict=True)]


def _outcome(address: UnitRef, result: object, device: str, seconds: float) -> UnitOutcome:
    if not isinstance(result, BaseException):
        try:
            return UnitOutcome(address.key, result=checked(result, str(address)), device=device, seconds=seconds)
        except ContractError as broken:
            result = broken
    if isinstance(result, Unmeasurable):
        return UnitOutcome(address.key, reason=str(result), device=device, seconds=seconds)
    text = "".join(traceback.format_exception(result))
    error = f"{type(result).__name__}: {result}"
    final = isinstance(result, ContractError | ParameterError | ResourceError)
    no_room = isinstance(result, torch.OutOfMemoryError)
    return UnitOutcome(
        address.key, None, None, error, text[-20_000:], final=final, no_room=no_room, device=device, seconds=seconds
    )


def checked(result: object, where: str) -> Result:
    """The result as the contract wants it: field name → small numpy array. Raises `ContractError` otherwise."""
    if not isinstance(result, Mapping) or not result:
        raise ContractError(f"{where}: compute must return a mapping of field name to numpy array, got {result!r:.200}")
    fields: dict[str, np.ndarray] = {}
    for name, value in result.items():
        if not isinstance(name, str) or not name:
            raise ContractError(f"{where}: a field's name must be a string, got {name!r}")
        if isinstance(value, torch.Tensor):
            raise ContractError(f"{where}: field {name!r} is a torch tensor; return .cpu().numpy()")
        if not isinstance(value, np.ndarray | np.generic):
            raise ContractError(f"{where}: field {name!r} must be a numpy array, got {type(value).__name__}")
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS:
            raise ContractError(f"{where}: field {name!r} has dtype {array.dtype}, which a store cannot hold")
        if array.nbytes > MAX_RESULT_BYTES:
            raise ContractError(
                f"{where}: field {name!r} has {array.nbytes} bytes, at most {MAX_RESULT_BYTES} are kept"
            )
        # A view would keep the whole tensor alive that it was cut from.
        fields[name] = array if array.base is None else array.copy()
    return fields


def _unit(
    store: Store, address: UnitRef, work: GroupWork, stored: Mapping[str, Result | str], on: torch.device
) -> Unit | str:
    """The unit with its inputs, or why it has no result: an input that it cannot do without has none.

    In a series an input without a value is absent from its observation, and the series goes on.
    """
    strict = address.statistic.scope in ("matrix", "pair")
    observations = []
    for member in address.members:
        statistics, reason = _inputs(member.inputs, stored)
        reference_statistics, of_reference = _inputs(member.reference_inputs, stored)
        if strict and (reason or of_reference):
            return reason or f"of the reference: {of_reference}"
        observations.append(_observation(store, member, statistics, reference_statistics, on))
    own, reason = _inputs(address.inputs, stored)
    if reason:
        return reason
    previous = work.previous.get(address.key)
    before = None if previous is None else stored.get(previous.reference.key)
    if previous is None or before is None or isinstance(before, str):
        return Unit(tuple(observations), address.trial, own)
    return Unit(tuple(observations), address.trial, own, before, previous.count)


def _inputs(
    inputs: Sequence[tuple[str, str]], stored: Mapping[str, Result | str]
) -> tuple[dict[str, Result], str | None]:
    """The input results by statistic name, and why one of them has no value."""
    found: dict[str, Result] = {}
    reason: str | None = None
    for name, key in inputs:
        value = stored.get(key)
        if value is None:
            raise ComputeError(f"the result of {name!r} under {key}, an input, is no longer in the store")
        if isinstance(value, str):
            reason = of_input(name, value)
        else:
            found[name] = value
    return found, reason


def _observation(
    store: Store,
    member: Member,
    statistics: Mapping[str, Result],
    reference_statistics: Mapping[str, Result],
    on: torch.device,
) -> Observation:
    merged = member.matrix is not None and isinstance(member.matrix.recipe, Merged)
    held: Held | None = weakref.WeakValueDictionary() if merged else None
    return Observation(
        member.run,
        member.step,
        member.matrix.info if member.matrix else None,
        _matrix(store, member.matrix, on, held),
        _matrix(store, member.reference, on, held),
        statistics,
        reference_statistics,
        open_checkpoint(store, member.checkpoint) if member.checkpoint else None,
    )


def _matrix(store: Store, source: MatrixRef | None, on: torch.device, held: Held | None) -> Matrix | None:
    if source is None:
        return None
    return Matrix(source.info, source.key, functools.partial(_load, store, source.recipe, on, held))


def _load(store: Store, recipe: Recipe, on: torch.device, held: Held | None) -> Content:
    """The matrix on its device. An adapter's W and its W0 share the base while one of them is in use."""
    if isinstance(recipe, Merged):
        base, delta = (_load(store, part, on, held) for part in (recipe.base, recipe.delta))
        assert isinstance(base, torch.Tensor) and isinstance(delta, LowRank)
        return Sum(base, delta)
    if held is not None and isinstance(recipe, Dense) and (known := held.get(recipe)) is not None:
        return known
    with spend("pipeline"):  # all that no phase inside names is the overhead of finding and opening
        content = store.load(recipe)
    with spend("copy"):
        content = _to_device(content, on)
    if held is not None and isinstance(recipe, Dense) and isinstance(content, torch.Tensor):
        held[recipe] = content
    return content


def _to_device(content: Content, on: torch.device) -> Content:
    if on.type == "cpu":
        return content
    if isinstance(content, LowRank):
        return LowRank(content.b.to(on), content.a.to(on), content.scale)
    assert isinstance(content, torch.Tensor)  # a sum is loaded by its parts
    return content.to(on)


def _stored(path: str, work: GroupWork) -> dict[str, Result | str]:
    references = (*work.inputs, *(previous.reference for previous in work.previous.values()))
    with spend("read"):
        return read_references(path, references) if references else {}


@functools.lru_cache(maxsize=4)
def _cache(path: str, max_bytes: int) -> Cache:
    return _Timed(DiskCache(cache_path(path), max_bytes)) if max_bytes > 0 else no_cache


class _Timed:
    """A cache whose reading and keeping is the profile's "read", and whose making stays the statistic's own."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def __call__(
        self, name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> Mapping[str, torch.Tensor]:
        def apart() -> Mapping[str, torch.Tensor]:
            with spend("factorize"):
                return make()

        with spend("read"):
            return self._cache(name, key, apart)


def _store(path: str) -> Store:
    return _opened(path, store_identity(Path(path)))


@functools.lru_cache(maxsize=4)
def _opened(path: str, identity: str) -> Store:
    """The store, opened once per worker; `identity` tells one that was deleted and made anew at the same path."""
    return Store.open(path, "r")


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ComputeError(f"--device {device}: this worker finds no CUDA device")
    return torch.device(device)
