"""What analyzers derive becomes one tree that a DataTree, Zarr and netCDF accept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from analyzers.contract import Analyzer, Derived, Statistic, Variable, View
from analyzers.errors import ReportError
from pipeline.report import load, save
from pipeline.report.assembly import fitted, tree_of
from pipeline.report.tables import legal_names


class Plain(Analyzer):
    """An analyzer of one variable, for trees made by hand."""

    name, version = "plain", 3
    variables = (Variable("size", ("run", "step", "matrix"), "size", "m", "ruler", key=True, log=True),)

    def statistics(self) -> tuple[Statistic, ...]:
        """None: these tests derive nothing."""
        return ()

    def derive(self, view: View) -> Derived:
        """Never called."""
        raise NotImplementedError


def parent(steps: tuple[int, ...] = (0, 1, 2), matrices: tuple[str, ...] = ("a", "b", "c")) -> xr.Dataset:
    """(run, step, matrix); the second run has only the first step."""
    values = np.ones((2, len(steps), len(matrices)))
    values[1, 1:] = np.nan
    coordinates = {"run": ["x/1", "x:1"], "step": list(steps), "matrix": list(matrices)}
    return xr.Dataset({"size": (("run", "step", "matrix"), values)}, coordinates)


def of_run(steps: list[int], matrices: list[str]) -> xr.Dataset:
    """σ of a run on its own steps and matrices."""
    values = np.arange(len(steps) * len(matrices) * 2.0).reshape(len(steps), len(matrices), 2)
    return xr.Dataset({"sigma": (("step", "matrix", "rank"), values)}, {"step": steps, "matrix": matrices})


def test_variables_say_what_they_are_and_where_they_were_measured() -> None:
    node = tree_of([(Plain(), (Derived(parent(), notes=("one", "two")),))])["plain"]
    wanted = {"long_name": "size", "units": "m", "source": "ruler", "key": 1, "log": 1}
    assert node["size"].attrs == wanted
    np.testing.assert_array_equal(node["measured"].values, [[True, True, True], [True, False, False]])
    assert node.attrs["notes"] == "one\ntwo" and node.attrs["version"] == 3


def test_runs_of_other_steps_and_alike_names_stand_side_by_side(tmp_path: Path) -> None:
    runs = {"x/1": of_run([0, 2], ["b", "c"]), "x:1": of_run([1], ["a"])}
    loaded = load(save(tree_of([(Plain(), (Derived(parent(), runs),))]), tmp_path / "report.zarr"))
    children = loaded["plain/runs"].children
    assert {node.attrs["run"] for node in children.values()} == {"x/1", "x:1"}
    first = next(node for node in children.values() if node.attrs["run"] == "x/1")["sigma"]
    np.testing.assert_array_equal(first.sel(step=[0, 2], matrix=["b", "c"]), runs["x/1"]["sigma"])
    assert np.isnan(first.sel(step=1)).all() and np.isnan(first.sel(matrix="a")).all()


def test_padding_is_refused_where_it_would_be_large() -> None:
    kept = fitted(of_run([0], ["b"]), parent(), padding_limit=10)
    assert dict(kept.sizes) == {"run_step": 1, "run_matrix": 1, "rank": 2}
    xr.DataTree.from_dict({"/": parent(), "/runs": kept})  # aligned: raises otherwise


def test_an_analyzer_cannot_take_a_name_of_the_reports_own() -> None:
    for name in ("archive", "a/b", "__x"):
        analyzer = Plain()
        analyzer.__class__ = type("Other", (Plain,), {"name": name})
        with pytest.raises(ReportError, match="rename it"):
            tree_of([(analyzer, (Derived(parent()),))])


@given(st.lists(st.text(), unique=True))
def test_legal_names_are_legal_and_distinct_also_where_case_is_ignored(names: list[str]) -> None:
    legal = legal_names(names)
    assert set(legal) == set(names)
    assert len({value.lower() for value in legal.values()}) == len(names)
    for value in legal.values():
        assert value and "/" not in value and not value.startswith((".", "__")) and len(value) < 200


@pytest.mark.parametrize("name", ["run", "step", "matrix", "Run"])
def test_a_run_may_be_called_as_an_axis_is(name: str, tmp_path: Path) -> None:
    derived = Derived(
        xr.Dataset({"size": parent()["size"]}), runs={name: xr.Dataset({"size": ("matrix", [1.0, 2.0, 3.0])})}
    )
    tree = tree_of([(Plain(), (derived,))])
    (child,) = tree["plain/runs"].children.values()
    assert child.attrs["run"] == name
    save(tree, tmp_path / "report.zarr")
    assert load(tmp_path / "report.zarr")["plain/runs"].children
