"""The content key of a unit: what a stored result is a function of, and nothing else.

Equal keys mean equal results, on any machine and in any archive, so a unit that is in the store is never computed
again. Changing a formula means raising the statistic's `version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blake3

from analyzers.contract import Statistic, Trial
from analyzers.errors import ContractError
from pipeline.archive.recipes import digest


def identity(statistic: Statistic) -> str:
    """Digest of the statistic's name, version and parameters, without its extent: what units of one table share.

    Raises `ContractError` when a parameter is not plain JSON data (NaN included: it equals nothing, itself neither).
    """
    parameters = statistic.parameters()
    try:
        return digest({"name": statistic.name, "version": statistic.version, "parameters": parameters})
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"parameters of statistic {statistic.name!r} must be JSON data to enter its key, "
            f"got {parameters!r}: {error}"
        ) from error


def key(statistic: Statistic, inputs: Sequence[str], trial: Trial | None = None, input_keys: Sequence[str] = ()) -> str:
    """The key of one unit, 32 hex digits.

    inputs: recipe keys in order, the reference's after its matrix's; for a series, `chain`ed.
    trial: the proposal of an iterative statistic. input_keys: keys of the input statistics, in declared order.
    The extent (a top-k) stays out: it is compared with the stored one instead.
    """
    of_unit = unit_key(identity(statistic), inputs, input_keys)
    return of_unit if trial is None else trial_key(of_unit, trial)


def unit_key(statistic_identity: str, inputs: Sequence[str], input_keys: Sequence[str] = ()) -> str:
    """`key` for a caller that holds the statistic's identity, which hundreds of thousands of units share."""
    # All parts are short strings without these separators, so JSON would add time and nothing else.
    text = f"{statistic_identity}|{','.join(inputs)}|{','.join(input_keys)}"
    return blake3.blake3(text.encode()).hexdigest(length=16)


def trial_key(of_unit: str, trial: Trial) -> str:
    """The key of one trial of an iterative statistic's unit. Raises `ContractError` when it is not JSON data."""
    try:
        return digest([of_unit, dict(trial)])
    except (TypeError, ValueError) as error:
        raise ContractError(f"a trial must be JSON data to enter its key, got {dict(trial)!r}: {error}") from error


def input_key(statistic: Statistic, of_input: Statistic, wanted_extent: int, its_key: str) -> str:
    """How an input's key enters the key of `statistic`, which wants the input with that extent.

    A statistic without an extent of its own can depend on how much of its input was asked for, so that enters; one
    with an extent is compared by that.
    """
    if of_input.extent_field is None or statistic.extent_field is not None:
        return its_key
    return f"{its_key}:{wanted_extent}"


def chain(previous: str, *parts: Any) -> str:
    """Extends the digest of a series by one entry, so that the keys of all its prefixes cost one pass."""
    return digest([previous, *parts])


def seed_of(unit_key: str) -> int:
    """The unit's seed, 63 bits: the same unit draws the same numbers on any worker, in any order."""
    return int(unit_key[:16], 16) >> 1
