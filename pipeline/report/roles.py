"""Which matrices stand in medians, curves and heatmaps: those of one role in each run, never a mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

WORDS = {"weight": "weights", "delta": "adapters’ Δ", "merged": "adapters’ W0 + Δ"}


@dataclass(frozen=True)
class Roles:
    """`of`: (run, matrix) → role. `shown`: run → the role that figures show: "delta" of an adapter, else "weight".

    Of a run in neither, everything but attention circuits is shown.
    """

    of: Mapping[tuple[str, str], str]
    shown: Mapping[str, str]

    @staticmethod
    def from_tree(tree: xr.DataTree) -> Roles:
        """From /archive/parameters, which lists every matrix of every run; empty where the tree has no such table."""
        of: dict[tuple[str, str], str] = {}
        roles: dict[str, dict[str, None]] = {}
        if "archive" in tree.children and "parameters" in tree["archive"].children:
            table = tree["archive/parameters"].to_dataset()
            if {"run", "matrix", "role"} <= set(table.data_vars):
                for run, matrix, role in zip(*(table[n].values for n in ("run", "matrix", "role")), strict=True):
                    of[str(run), str(matrix)] = str(role)
                    roles.setdefault(str(run), {})[str(role)] = None
        shown = {
            run: next((role for role in ("delta", "weight") if role in there), next(iter(there)))
            for run, there in roles.items()
        }
        return Roles(of, shown)

    @property
    def circuits(self) -> bool:
        """Whether some run has matrices that are products of attention factors."""
        return any(role.startswith("circuit") for role in self.of.values())

    def only(self, values: xr.DataArray) -> xr.DataArray:
        """`values` with NaN at matrices of another role than the run's; as it is where nothing else would be left."""
        if "matrix" not in values.dims or "matrix" not in values.coords:
            return values
        names = [str(name) for name in values["matrix"].values]
        dims = [dim for dim in ("run", "matrix") if dim in values.dims]
        runs = [str(run) for run in values["run"].values] if "run" in values.dims else [""]
        kept = np.array([[self._is_shown(run, name) for name in names] for run in runs])
        if kept.all():
            return values
        masked = values.where(xr.DataArray(kept if "run" in dims else kept[0], dims=dims))
        masked.attrs = values.attrs
        return masked if bool(masked.notnull().any()) else values

    def _is_shown(self, run: str, matrix: str) -> bool:
        role = self.of.get((run, matrix), "weight")
        return role == self.shown[run] if run in self.shown else not role.startswith("circuit")

    def apart(self, values: xr.DataArray) -> list[tuple[str, xr.DataArray]]:
        """Values of each role apart, with its word: weights and adapters' Δ never share a figure. Where all runs are
        of one role, the values as they are, without a word."""
        if not {"run", "matrix"} <= set(values.dims):
            return [("", values)]
        if _merged(values):
            return [("adapters on their base", values)]
        runs = [str(run) for run in values["run"].values]
        words = {run: self.word(run) for run in runs if bool(values.isel(run=runs.index(run)).notnull().any())}
        if len(set(words.values())) < 2:
            return [("", values)]
        return [
            (word, values.where(xr.DataArray([words.get(run) == word for run in runs], dims="run")))
            for word in dict.fromkeys(words.values())
        ]

    def of_values(self, values: xr.DataArray) -> Roles:
        """The roles as they are in these values, where an adapter's matrices can stand on their base."""
        return replace(self, shown={**self.shown, **dict.fromkeys(_merged(values), "merged")})

    def word(self, run: str) -> str:
        """ "weights", "adapters’ Δ"; empty where nothing is known of the run."""
        return WORDS.get(self.shown[run], self.shown[run].replace("_", " ")) if run in self.shown else ""

    def said(self, runs: Iterable[str], labels: Mapping[str, str]) -> str:
        """ "Weights: full, grokking; adapters’ Δ: lora-r1." Empty where nothing is known of the runs."""
        by_role: dict[str, list[str]] = {}
        for run in runs:
            if run in self.shown:
                by_role.setdefault(self.shown[run], []).append(labels.get(run, run))
        words = {role: WORDS.get(role, role.replace("_", " ")) for role in by_role}
        if len(by_role) == 1:
            return f"The matrices are {next(iter(words.values()))}."
        listed = (
            f"{words[role]}: {', '.join(names[:6])}" + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            for role, names in by_role.items()
        )
        return _sentence("; ".join(listed)) if by_role else ""


def _merged(values: xr.DataArray) -> list[str]:
    """The runs whose values are of merged weights."""
    if "role" not in values.coords or set(values["role"].dims) != {"run", "matrix"}:
        return []
    merged = (values["role"].transpose("run", "matrix").values == "merged").any(axis=1)
    return [str(run) for run, of_run in zip(values["run"].values, merged, strict=True) if of_run]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
