"""What a report's tree says of the archive: runs, steps, problems, unmeasured tensors, as plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.compare import analyzer_nodes
from pipeline.report.tables import rows_of

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Contents:
    """Rows of the tables under /archive (empty where the tree has none); `steps` is the union, sorted. `findings` are
    those of /archive/contents.

    `runs` are those analysed, without bases that were only compared with.
    """

    runs: tuple[str, ...]
    steps: np.ndarray
    matrices: int
    run_rows: Rows
    unmeasured: Rows
    problems: Rows
    failures: Rows
    skipped: Rows
    notes: Rows = ()
    findings: Rows = ()

    @staticmethod
    def of(tree: xr.DataTree) -> Contents:
        """Collects them; runs and steps come from the analyzers' nodes where /archive does not name them."""
        run_rows = archive_rows(tree, "runs")
        named = [str(row["run"]) for row in run_rows if row.get("role") != "base"]
        found: list[str] = []
        names: dict[str, None] = {}
        steps: set[int] = set()
        for dataset in (dataset for node in analyzer_nodes(tree) for dataset in groups.datasets(tree, node)):
            found += [str(r) for r in dataset["run"].values.ravel()] if "run" in dataset.coords else []
            steps |= {int(s) for s in dataset["step"].values.ravel()} if "step" in dataset.coords else set()
            if "matrix" in dataset.coords:
                names.update(dict.fromkeys(str(m) for m in dataset["matrix"].values.ravel()))
        return Contents(
            tuple(dict.fromkeys(named or found)),
            np.array(sorted(steps), dtype=np.int64),
            len(names),
            run_rows,
            *(
                archive_rows(tree, name)
                for name in ("unmeasured", "problems", "failures", "skipped", "notes", "contents")
            ),
        )


def archive_rows(tree: xr.DataTree, name: str) -> Rows:
    """The rows of /archive/<name>, none where the tree has no such table."""
    if "archive" not in tree.children or name not in tree["archive"].children:
        return ()
    return tuple(rows_of(tree[f"archive/{name}"].to_dataset()))
