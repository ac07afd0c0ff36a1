"""Paths through weight space: no two runs share axes, and each panel says what it holds of its path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from pipeline.report import path_figures
from pipeline.report.look import Look

RUNS, STEPS = ("a", "b", "c", "d", "e"), np.array([0, 10, 20])


def paths() -> xr.Dataset:
    """Five runs of three steps, each along its own first component, with shares of its own."""
    path = np.arange(3.0)[None, :, None, None] * np.arange(1, 6)[:, None, None, None] * np.ones((1, 1, 1, 2))
    first = np.linspace(0.5, 0.9, 5)
    shares = np.stack([first, 1 - first], axis=1)[:, None, :]
    along = ("run", "step", "group")
    return xr.Dataset(
        {
            "path": ((*along, "axis"), path),
            "distance_from_start": (along, path[..., 0]),
            "relative_distance": (along, path[..., 0] / 10),
            "explained_variance": (("run", "group", "component"), shares),
            "explained_variance_null": (("run", "group", "component"), shares),
            "path_dimension": (("run", "group"), first[:, None]),
            "path_dimension_null": (("run", "group"), first[:, None]),
        },
        {"run": ("run", np.array(RUNS, object)), "step": STEPS},
    )


def test_each_run_has_a_panel_with_its_own_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    panels: list[tuple[int, str, str]] = []

    def noted(figure: Any, *words: str) -> path_figures.Image:
        panels.extend((len(a.lines), a.get_xlabel(), a.get_ylabel()) for a in figure.axes)
        return path_figures.Image(*words, "", 1, 1)

    monkeypatch.setattr(path_figures, "image", noted)
    look = Look.of(xr.DataTree.from_dict({"/": xr.Dataset()}), RUNS, STEPS)
    _, table = path_figures.path_blocks(paths(), look)
    expected = [(f"component 1 ({p} %)", f"component 2 ({100 - p} %)") for p in (50, 60, 70, 80, 90)]
    assert panels == [(2, *labels) for labels in expected]  # a path and the square at its first step
    assert [row[1] for row in table.rows] == ["0.5", "0.6", "0.7", "0.8", "0.9"]
    assert table.rows[-1][-1] == "1"
