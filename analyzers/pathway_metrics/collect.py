"""Numbers of single checkpoints gathered into arrays over run, step and probe; routers and experts as they turn up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzers.pathway_metrics.derivation import GROUPS
from analyzers.pathway_metrics.variables import BY_NAME
from analyzers.pathway_metrics.vocabulary import Shares

Place = tuple[int, int | None, int]
"""(position of the run, step or None, position of the probe)"""


class Collected:
    """Filled by `put` and `put_cut`; `arrays` gives what was found, NaN elsewhere."""

    def __init__(
        self, runs: Sequence[str], steps: np.ndarray, probes: Sequence[str], thresholds: Sequence[float]
    ) -> None:
        self.runs, self.probes, self.thresholds = list(runs), list(probes), list(thresholds)
        self.steps = [int(step) for step in steps]
        self.columns: dict[str, int] = {}
        self.routers: dict[str, int] = {}
        self.domains: dict[str, int] = {}
        self._tables: list[dict[str, np.ndarray]] = []
        self._values: dict[str, list[tuple[tuple[int, ...], Any, tuple[int, ...], tuple[int, ...]]]] = {}

    @property
    def found(self) -> bool:
        """Whether any checkpoint was put."""
        return "probe_loss" in self._values

    def put(
        self, place: Place, fields: dict[str, Any], routers: Sequence[str] = (), domains: Sequence[str] = ()
    ) -> None:
        """Values of one checkpoint (or of one run); arrays along the router axis are named by `routers`."""
        at = self._at(place)
        rows = tuple(self.routers.setdefault(name, len(self.routers)) for name in routers)
        areas = tuple(self.domains.setdefault(name, len(self.domains)) for name in domains)
        for name, value in fields.items():
            self._values.setdefault(name, []).append((at, value, rows, areas))

    def put_cut(self, place: Place, cut: int, fields: dict[str, Any]) -> None:
        """Values of one checkpoint at one threshold; "name/column" for one grouping."""
        at = self._at(place)
        for key, value in fields.items():
            name, _, column = key.partition("/")
            where = (*at, cut)
            if column:
                where = (*where, self.columns.setdefault(column, len(self.columns)))
            self._values.setdefault(name, []).append((where, value, (), ()))

    def put_table(self, run: int, probe: int, table: Shares, routers: Sequence[str]) -> None:
        """The vocabulary table of a run's last checkpoint."""
        along = np.array([self.routers[name] for name in routers], dtype=np.int32)
        self._tables.append(
            {
                "vocabulary_share": table.share.astype(np.float32),
                "vocabulary_run": np.full(len(table.share), run, dtype=np.int32),
                "vocabulary_probe": np.full(len(table.share), probe, dtype=np.int32),
                "vocabulary_router": along[table.router],
                "vocabulary_expert": table.expert.astype(np.int32),
                "vocabulary_token": table.token.astype(np.int64),
                "vocabulary_seen": table.seen.astype(np.int64),
            }
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """By variable name, with the variable's dims."""
        sizes = {
            "run": len(self.runs),
            "step": len(self.steps),
            "probe": len(self.probes),
            "threshold": len(self.thresholds),
            "column": len(self.columns),
            "router": len(self.routers),
            "domain": len(self.domains),
            "expert": self._experts(),
            "other_expert": self._experts(),
        }
        found = {}
        for name, entries in self._values.items():
            dims = BY_NAME[name].dims
            array = np.full(tuple(sizes[dim] for dim in dims), np.nan)
            for at, value, rows, areas in entries:
                if "router" not in dims:
                    array[at] = value
                    continue
                values = np.asarray(value, dtype=np.float64)
                block = array[at]
                for row, of_row in zip(rows, values, strict=True):
                    if dims[-1] == "domain":
                        for area, column in zip(areas, of_row.T, strict=True):
                            block[row, : len(column), area] = column
                    else:
                        block[(row, *(slice(side) for side in of_row.shape))] = of_row
            found[name] = array
        if any(len(table["vocabulary_share"]) for table in self._tables):
            found |= {name: np.concatenate([table[name] for table in self._tables]) for name in self._tables[0]}
        return found

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of the dims that arrays may have."""
        return {
            "probe": self.probes,
            "threshold": np.array(self.thresholds),
            "column": [name for name in self.columns if name in GROUPS],
            "router": list(self.routers),
            "domain": list(self.domains),
            "expert": np.arange(self._experts()),
            "other_expert": np.arange(self._experts()),
        }

    def _experts(self) -> int:
        return max((np.shape(value)[1] for _, value, _, _ in self._values.get("expert_load", ())), default=0)

    def _at(self, place: Place) -> tuple[int, ...]:
        run, step, probe = place
        return (run, probe) if step is None else (run, self.steps.index(step), probe)
