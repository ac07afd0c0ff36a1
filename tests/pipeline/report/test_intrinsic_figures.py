"""The page's section on intrinsic dimension says what was measured, and shows what is censored as such."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analyzers.intrinsic_dimension.derivation import THRESHOLDS
from pipeline.report.blocks import Gallery, PageTable
from pipeline.report.intrinsic_figures import _layers, intrinsic_section
from pipeline.report.intrinsic_text import rows, said, sentence
from pipeline.report.look import Look

STEPS = np.array([0, 10, 20, 30, 40])


def tree() -> xr.DataTree:
    """One run, two methods; at step 0 no d reaches, at 10 an interval, at 20 nothing need be trained, at 30 the least
    d reaches, at 40 an interval that is open and doubtful."""
    cell = ("run", "step", "task", "method")
    nan = np.nan
    values = {
        0: (nan, 4810.0, np.inf, 1.0, 4810.0, 0.0),
        1: (107.0, 93.0, 131.0, 0.0, nan, 0.0),
        2: (0.0, 0.0, 0.0, 0.0, nan, 0.0),
        3: (nan, 0.0, 17.0, -1.0, 17.0, 0.0),
        4: (107.0, 0.0, np.inf, 0.0, nan, 1.0),
    }
    shape = (1, 5, 1, 2, len(THRESHOLDS), 1)
    names = ("d_int", "d_int_low", "d_int_high", "censored", "d_int_limit", "d_int_flag")
    crossing = {n: np.full(shape, np.nan) for n in names}
    for step, told in values.items():
        for name, value in zip(crossing, told, strict=True):
            crossing[name][0, step] = value
    d = np.array([0, 69, 147])
    score = np.broadcast_to(np.array([0.1, 0.8, 0.9]), (1, 5, 1, 2, 3))
    data = {n: ((*cell, "threshold", "level"), v) for n, v in crossing.items()}
    data |= {
        n: ((*cell, "threshold", "level"), np.full(shape, v))
        for n, v in (("threshold_score", 0.87), ("budget_changes", 1), ("d_int_doubled", 52.2))
    }
    data |= {
        n: ((*cell, "d"), score + e)
        for n, e in (("score", 0), ("score_low", -0.02), ("score_high", 0.02), ("tune_score", 0))
    }
    numbers = {
        "baseline_score": 0.97,
        "initial_score": 0.1,
        "n_trials": 33,
        "n_diverged": 2,
        "diverged_lr": 0.1,
        "n_fresh": 770,
        "n_trained": 4810,
    }
    data |= {n: (cell, np.full((1, 5, 1, 2), float(v))) for n, v in numbers.items()}
    path = np.array([[0.0, 0, 0], [1, 0.5, 0], [2, 0, 0], [2, 1, 0], [3, 1, 0]])[None, :, None]
    data |= {"path": (("run", "step", "group", "axis"), path)}
    data |= dict.fromkeys(("distance_from_start", "relative_distance"), (("run", "step", "group"), path[..., 0]))
    shares = np.array([[[0.9, 0.1]]])
    data |= dict.fromkeys(("explained_variance", "explained_variance_null"), (("run", "group", "component"), shares))
    data |= {n: (("run", "group"), np.ones((1, 1))) for n in ("path_dimension", "path_dimension_null")}
    clouds = np.arange(10.0).reshape(1, 5, 1, 2) + 1
    names_of_clouds = ("two_nn", "mle", "participation_ratio")
    data |= dict.fromkeys(names_of_clouds, (("run", "step", "task", "layer"), clouds))
    coordinates = {
        "run": ["net"],
        "step": STEPS,
        "task": ["digits"],
        "method": ["did one_hot", "did one_hot, shuffled_labels"],
        "threshold": list(THRESHOLDS),
        "level": [0.9],
        "d": d,
        "group": ["all"],
        "layer": ["first", "second"],
    }
    return xr.DataTree.from_dict({"/intrinsic_dimension": xr.Dataset(data, coordinates)})


def test_the_section_has_curves_table_and_path() -> None:
    one = tree()
    section = intrinsic_section(one, Look.of(one, ["net"], STEPS))
    assert section is not None
    titles = [image.title for block in section.blocks if isinstance(block, Gallery) for image in block.images]
    assert titles[0] == "Intrinsic dimension over steps: digits"
    assert "Score against dimensions: digits, net, did one_hot, shuffled_labels" in titles
    assert titles[-1] == "Paths through weight space"
    assert any(isinstance(block, PageTable) for block in section.blocks)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (0, "above 4810"),
        (10, "107 [93 … 131]"),
        (20, "0 (before training)"),
        (30, "at or below 17"),
        (40, "107 [open … open] ⚑"),
    ],
)
def test_a_crossing_is_said_with_its_censoring(step: int, text: str) -> None:
    node = tree()["intrinsic_dimension"].to_dataset()
    one = node.isel(run=0, task=0, method=0, level=0).sel(step=step, threshold="local")
    assert said(one) == text


def test_where_a_doubled_budget_moves_d_int_is_said() -> None:
    node = tree()["intrinsic_dimension"].to_dataset()
    assert "a doubled budget moves it, to local 52.2" in str(next(rows(node)))


def test_a_report_without_the_analyzer_has_no_such_section() -> None:
    empty = xr.DataTree()
    assert intrinsic_section(empty, Look.of(empty, [], np.array([0]))) is None


def test_activations_are_drawn_over_steps_where_there_are_some_and_over_layers_else() -> None:
    one = tree()
    node = one["intrinsic_dimension"].to_dataset()
    look = Look.of(one, ["net"], STEPS)
    (over_steps,) = _layers(node, look)
    (over_layers,) = _layers(node.isel(step=[0, 4]), look)
    assert "a curve per layer" in over_steps.caption and "layer by layer" in over_layers.caption
    assert over_steps.alt == over_layers.alt == "TwoNN, last step: first 9; second 10."


def test_the_cells_of_the_table_are_the_reports_numbers() -> None:
    one = tree()
    section = intrinsic_section(one, Look.of(one, ["net"], STEPS))
    assert section is not None
    table = next(block for block in section.blocks if isinstance(block, PageTable))
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["step"] for row in cells] == [str(step) for step in STEPS for _ in range(2)]
    assert {(row["full training"], row["before training"], row["trained models"]) for row in cells} == {
        ("0.97", "0.1", "33")
    }
    of_first = [row["d_int local"] for row in cells if row["method"] == "did one_hot"]
    assert of_first == ["above 4810", "107 [93 … 131]", "0 (before training)", "at or below 17", "107 [open … open] ⚑"]


def test_every_doubt_is_told_in_the_table_and_the_summary_says_the_convention() -> None:
    (doubtful,) = (
        row for row in rows(tree()["intrinsic_dimension"].to_dataset().isel(method=[0])) if row["step"] == 40
    )
    assert "⚑ local, run, global: the noise of the seeds reaches beyond the d that were tried" in str(doubtful["note"])
    assert "2 diverged, from lr 0.1 on" in str(doubtful["note"])
    told = sentence(tree())
    assert "0.9 of the best full training of the run" in told
    assert "net above 4810 at step 0 and 107 [open … open] ⚑ at step 40" in told
    assert sentence(xr.DataTree()) == ""
