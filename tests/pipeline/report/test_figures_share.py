"""What the figures of a page share: roles, labels, the axis of steps."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.compare import key_variables, series_of
from pipeline.report.figures import canvas
from pipeline.report.roles import Roles
from pipeline.report.step_axis import StepScale, log_ticks
from pipeline.report.style import short_labels, wrapped
from pipeline.report.tables import table
from tests.pipeline.report import synthetic


def mixed() -> xr.DataTree:
    """Two runs, three matrices: weights and a circuit in "full", a Δ, a saved weight and no circuit in "lora"."""
    tree = synthetic.tree(runs=("full", "lora"), matrices=3, steps=(0, 10), intruders=False)
    names = [str(name) for name in tree["weight_spectra"]["matrix"].values]
    roles = {"full": ("weight", "weight", "circuit_qk"), "lora": ("delta", "weight", "circuit_qk")}
    rows = [(run, name, role) for run, each in roles.items() for name, role in zip(names, each, strict=True)]
    columns = dict(zip(("run", "matrix", "role"), map(list, zip(*rows, strict=True)), strict=True))
    tree["archive/parameters"] = xr.DataTree(table("entry", columns))
    return tree


def test_a_median_is_over_one_role_and_never_over_circuits() -> None:
    tree = mixed()
    values = tree["weight_spectra/stable_rank"].values
    of_weights, of_deltas = (v for v in key_variables(tree) if v.name == "stable_rank")
    assert (of_weights.label, of_deltas.label) == ("weights", "adapters’ Δ")
    (full,), (lora,) = series_of(of_weights), series_of(of_deltas)
    np.testing.assert_allclose(full.median, values[0, :, :2].mean(axis=1))  # the median of two
    np.testing.assert_allclose(lora.median, values[1, :, 0])


def test_the_caption_says_which_role_stands_for_which_run() -> None:
    roles = Roles.from_tree(mixed())
    assert roles.circuits
    assert roles.said(["full", "lora"], {"lora": "L"}) == "Weights: full; adapters’ Δ: L."
    assert roles.said(["full"], {}) == "The matrices are weights." and roles.said(["unknown"], {}) == ""


def test_a_variable_of_circuits_alone_is_shown_all_the_same() -> None:
    values = xr.DataArray([[1.0, np.nan]], {"run": ["r"], "matrix": ["c", "w"]}, ("run", "matrix"))
    assert float(Roles({("r", "c"): "circuit_qk", ("r", "w"): "weight"}, {"r": "weight"}).only(values)[0, 0]) == 1.0


def test_labels_lose_the_folders_that_most_ids_begin_with() -> None:
    assert short_labels(["a/x/full", "a/x/lora", "hub/base"]) == {
        "a/x/full": "full",
        "a/x/lora": "lora",
        "hub/base": "hub/base",
    }
    assert short_labels(["a/one"]) == {"a/one": "one"} and short_labels(["a"]) == {"a": "a"} and short_labels([]) == {}
    assert short_labels(["a/x", "a/y", "x"])["a/x"] == "a/x"  # "x" is a run of its own


@given(st.lists(st.text(alphabet="ab/").filter(lambda r: "//" not in r and r == r.strip("/")), unique=True))
def test_labels_stay_distinct(runs: list[str]) -> None:
    labels = short_labels(runs)
    assert list(labels) == runs and len(set(labels.values())) == len(runs)


@given(st.text(max_size=300))
def test_a_panels_title_has_two_lines_at_most_and_fits(text: str) -> None:
    rows = wrapped(text, 2.0).split("\n")
    assert len(rows) <= 2 and all(len(row.replace("\\$", "$")) <= 23 for row in rows)


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=40, unique=True), st.sampled_from([0, 1, 20]))
def test_no_tick_lies_beyond_the_steps(steps: list[int], start: int) -> None:
    shown = np.array(sorted({*steps, start}))
    threshold = 1.0  # the page's least positive step, shown in this figure or not
    ticks = log_ticks(float(shown[0]), float(shown[-1]), threshold)
    assert ticks == sorted(set(ticks))
    assert shown[0] <= ticks[0] and ticks[-1] <= max(shown[-1], threshold)


@pytest.mark.parametrize("steps", [(0, 20, 50, 3500), (20, 60, 120), (0,), (7,), (1, 400)])
def test_the_axis_begins_at_the_first_step(steps: tuple[int, ...]) -> None:
    scale = StepScale.of(np.array([0, 20, 40, 60, 80, 100, 120, 3500]))
    with canvas(4, 3) as figure:
        axes = figure.add_subplot()
        axes.plot(steps, np.ones(len(steps)))
        scale.draw(axes, np.array(steps))
        figure.canvas.draw()
        low, high = axes.get_xlim()
        assert axes.get_xscale() == "symlog" and low < steps[0] and high > steps[-1]
        ticks = [t for t in axes.get_xticks() if low <= t <= high]
        assert min(ticks, default=min(steps)) >= min(steps)
        assert low > -20 and isinstance(axes, mpl.axes.Axes)
