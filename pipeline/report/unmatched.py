"""Matrices that are compared with nothing, as notes: one for each reason, with the runs that it concerns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipeline.report.blocks import several
from pipeline.store.held import name_words
from pipeline.units.reasons import UNMATCHED, cause

if TYPE_CHECKING:
    from pipeline.units.addresses import Skip


def unmatched_rows(skips: Iterable[Skip]) -> list[dict[str, Any]]:
    """Rows of /archive/contents on a base (or an earlier step) with fewer or more layers than the run, or another head:
    most matrices have their counterpart there, these have none."""
    matrices: dict[tuple[str, str], dict[str, None]] = {}
    for skip in skips:
        if skip.code == UNMATCHED and skip.matrix is not None:
            reason = skip.cause or cause(skip.reason)[0]
            matrices.setdefault((reason, skip.run), {})[skip.matrix] = None
    runs: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, run), of_run in matrices.items():
        runs.setdefault((reason, tuple(of_run)), []).append(run)
    rows = []
    for (reason, names), of_runs in runs.items():
        what = several(len(names), "matrix is not compared", "matrices are not compared")
        rows.append(
            {
                "code": UNMATCHED,
                "severity": "note",
                "runs": ", ".join(of_runs),
                "steps": "",
                "tensors": ", ".join(names),
                "text": f"{name_words(of_runs)}: {what} ({name_words(names)}): {reason}",
            }
        )
    return rows
