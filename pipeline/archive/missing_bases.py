"""Runs without the base that they should have: one problem for all that lack the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from analyzers.errors import ArchiveError, BaseNotFoundError
from pipeline.archive.types import Archive, Problem

_HINT = "their spectra are measured all the same"
_SHOWN = 8


def missing_bases(archive: Archive, errors: Mapping[str, ArchiveError]) -> dict[str, Problem]:
    """The problem of each run in `errors` (by id). Runs that lack the same base share one, which names them all and
    each place once; a base that was found and is damaged stays a problem of its own run."""
    causes: dict[str, list[str]] = {}
    for run, error in errors.items():
        if isinstance(error, BaseNotFoundError):
            causes.setdefault(error.why, []).append(run)
    paths = {run.id: str(run.path) for run in archive.runs}
    problems = {
        run: Problem(paths[run], str(error), hint=_HINT.replace("their", "its")) for run, error in errors.items()
    }
    for why, runs in causes.items():
        if len(runs) > 1:
            text = _together(
                why, runs, [error.looked for run in runs if isinstance(error := errors[run], BaseNotFoundError)]
            )
            problems |= dict.fromkeys(runs, Problem(str(archive.root), text, hint=_HINT))
    return problems


def _together(why: str, runs: Sequence[str], looked: Sequence[Sequence[str]]) -> str:
    """The message for several runs: the places that all of them share, then how many others were searched."""
    counts = Counter(place for places in looked for place in places)
    shared = [place for place, count in counts.items() if count == len(runs)]
    own = [place for place in counts if place not in shared]
    places = "; ".join((*shared, *own[:1]))
    more = f" and {len(own) - 1} more places in or beside the runs" if len(own) > 1 else ""
    named = ", ".join(runs[:_SHOWN]) + (f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else "")
    return (
        f"the base of {len(runs)} runs was not found ({why}): {named}. Looked at: {places or 'nowhere'}{more}. "
        "Give it with --base PATH, --base RUN@STEP or --base RUN_GLOB=PATH"
    )
