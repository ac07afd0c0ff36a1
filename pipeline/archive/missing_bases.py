"""Runs without the base that they should have: one problem for all that lack the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from analyzers.errors import ArchiveError, BaseNotFoundError
from pipeline.archive.types import Archive, Problem

_HINT = "their spectra are still measured"
_HINT_FOR_ONE = "its spectra are still measured"
_SHOWN = 8


def missing_bases(archive: Archive, errors: Mapping[str, ArchiveError]) -> dict[str, Problem]:
    """The problem of each run in `errors` (by id). Runs that lack the same base share one, which names them all and
    each place once; a base that was found and is damaged stays a problem of its own run."""
    causes: dict[str, dict[str, tuple[str, ...]]] = {}
    for run, error in errors.items():
        if isinstance(error, BaseNotFoundError):
            causes.setdefault(error.why, {})[run] = error.looked
    paths = {run.id: str(run.path) for run in archive.runs}
    problems = {run: Problem(paths[run], str(error), hint=_HINT_FOR_ONE) for run, error in errors.items()}
    for why, looked in causes.items():
        if len(looked) > 1:
            problems |= dict.fromkeys(looked, Problem(str(archive.root), _together(why, looked), hint=_HINT))
    return problems


def _together(why: str, looked: Mapping[str, Sequence[str]]) -> str:
    """The message for several runs (id → the places searched): the places that all of them share, then how many others
    there were."""
    runs = list(looked)
    counts = Counter(place for places in looked.values() for place in places)
    shared = [place for place, count in counts.items() if count == len(runs)]
    own = [place for place in counts if place not in shared]
    places = "; ".join((*shared, *own[:1]))
    more = f" and {len(own) - 1} more places in or beside the runs" if len(own) > 1 else ""
    named = ", ".join(runs[:_SHOWN]) + (f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else "")
    return (
        f"the base of {len(runs)} runs was not found ({why}): {named}. Looked at: {places or 'nowhere'}{more}. "
        "Give it with --base PATH, --base RUN@STEP or --base RUN_GLOB=PATH"
    )
