"""The page speaks of the analyzers that measured something, and of every singular value that it has."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from pipeline.archive.bases import ResolvedBase
from pipeline.report import intrinsic_text, summary
from pipeline.report.compare import compares, measured_nodes
from pipeline.report.contents import Contents
from pipeline.report.html import render
from pipeline.report.look import Look
from pipeline.report.sections import BASE_KINDS
from pipeline.report.spectra import DrawnSpectrum, spectra_figure
from tests.pipeline.report import synthetic
from tests.pipeline.report.test_html import Page

NO_PROBE = "No probe was given."


def with_idle(tree: xr.DataTree) -> xr.DataTree:
    """The report with two analyzers more: one whose node is empty, one that has settings, names and NaN only."""
    tree["pathway_metrics"] = xr.DataTree(xr.Dataset(attrs={"notes": NO_PROBE}))
    idle = xr.Dataset(
        {
            "d_int": (("run", "step"), np.full((1, 2), np.nan)),
            "kind": (("run",), np.array(["full"], dtype=object)),
            "measured": (("run", "step"), np.zeros((1, 2), bool)),
            "chance": (("group",), np.ones(3)),
        },
        {"run": ["a"], "step": [0, 10]},
    )
    tree["idle_plugin"] = xr.DataTree(idle)
    return tree


def of_spectra() -> xr.DataTree:
    """A run with weight spectra and nothing else, whose base is its own first step."""
    return synthetic.tree(runs=("a",), matrices=2, steps=(0, 10), intruders=False)


def test_an_analyzer_that_measured_nothing_is_not_said_to_have_measured() -> None:
    tree = with_idle(of_spectra())
    assert measured_nodes(tree) == ["weight_spectra"]
    text = Page(render(tree)).text
    assert "measured by weight_spectra. Nothing was measured by pathway_metrics and idle_plugin" in text
    before, _, pitfalls = text.rpartition("Conventions and pitfalls")
    assert f"pathway_metrics gave no value. {NO_PROBE}" in before and "idle_plugin gave no value." in before
    assert NO_PROBE not in pitfalls


def test_datasets_of_single_runs_count_as_measured() -> None:
    child = xr.Dataset({"sigma": ("rank", [2.0, 1.0])}, attrs={"run": "a"})
    assert measured_nodes(xr.DataTree.from_dict({"/plugin": xr.Dataset(), "/plugin/runs/a": child})) == ["plugin"]


@pytest.mark.parametrize(("intruders", "expected"), [(True, True), (False, False)])
def test_bases_and_intruders_are_spoken_of_where_something_was_compared(intruders: bool, expected: bool) -> None:
    tree = synthetic.tree(runs=("a",), matrices=2, steps=(0, 10), intruders=intruders)
    assert compares(tree) is expected
    text = Page(render(tree)).text
    said = ("own first saved step", "An intruder count alone", "compared with")
    assert [part in text for part in said] == [expected] * 3
    assert "α without its null" in text


def test_a_page_without_spectra_has_no_pitfall_of_them() -> None:
    tree = of_spectra()
    del tree["weight_spectra"]
    values = xr.Variable(("run", "step"), [[1.0, 2.0]], {"long_name": "two-NN", "units": "1"})
    dataset = xr.Dataset({"distance": values}, {"run": ["a"], "step": [0, 10]}, {"notes": "A note of its own."})
    tree["intrinsic_dimension"] = xr.DataTree(dataset)
    text = Page(render(tree)).text
    assert "The seed (the run) is the unit of replication" in text and "A note of its own." in text
    for absent in ("α without", "An intruder count alone", "own first saved step", "Singular values are those"):
        assert absent not in text


def test_the_summary_speaks_of_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = of_spectra()
    tasks = [f"task {i}" for i in range(5)]
    values = xr.Variable(("run", "task"), np.ones((1, 5)))
    tree["intrinsic_dimension"] = xr.DataTree(xr.Dataset({"d_int": values}, {"run": ["a"], "task": tasks}))

    def of_first(one: xr.DataTree) -> str:
        return f"About {one['intrinsic_dimension']['task'].values[0]}."

    monkeypatch.setattr(intrinsic_text, "sentence", of_first)
    contents = Contents.of(tree)
    said = summary.sentences(tree, contents, [], None, Look.of(tree, ["a"], contents.steps))
    assert said[-1] == "About task 0. About task 1. About task 2. 2 further tasks below."


def test_a_spectrum_of_one_value_is_a_point_that_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    plot = Axes.plot

    def recorded(self: Axes, *args, **options):
        drawn.append((np.size(args[0]), options.get("marker")))
        return plot(self, *args, **options)

    monkeypatch.setattr(Axes, "plot", recorded)
    tree = of_spectra()
    look = Look.of(tree, ["a"], np.array([0, 10]))
    for sigma in ([[1.0], [2.0]], [[2.0, 1e-12], [2.0, 1e-12]], [[2.0, 1.0], [3.0, 1.0]]):
        assert spectra_figure([DrawnSpectrum("a", "q", np.array([0, 10]), np.array(sigma))], look) is not None
    assert drawn == [(1, "o")] * 4 + [(2, "")] * 2


def test_the_page_says_in_words_how_a_base_was_chosen() -> None:
    text = Page(render(synthetic.tree(runs=("a", "b"), matrices=2, steps=(0, 10)))).text
    assert "the run's own first step" in text and "given by --base" in text and "first_step" not in text


def test_every_way_to_choose_a_base_has_its_words() -> None:
    kinds = re.search(r"`kind`: (.*?)\. `run`", str(ResolvedBase.__doc__), re.DOTALL)
    assert kinds is not None and set(re.findall(r'"(\w+)"', kinds[1])) == set(BASE_KINDS)
