"""A report on disk is the report in memory, or it is not there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.report import load, save
from tests.pipeline.report import synthetic


def assert_same(a: xr.DataTree, b: xr.DataTree) -> None:
    """Equal nodes, values, dims and the attributes of variables; strings may be of another dtype."""
    assert {n.path for n in a.subtree} == {n.path for n in b.subtree}
    for node in a.subtree:
        other = b[node.path]
        assert set(map(str, node.to_dataset().variables)) == set(map(str, other.to_dataset().variables)), node.path
        for name, variable in node.to_dataset().variables.items():
            again = other.to_dataset().variables[name]
            assert again.dims == variable.dims
            np.testing.assert_array_equal(np.asarray(again.values, dtype=variable.dtype), variable.values)
            for attribute in ("long_name", "units", "source", "key", "log"):
                assert again.attrs.get(attribute) == variable.attrs.get(attribute), (node.path, name, attribute)


def test_a_saved_report_opens_in_xarray_without_warnings_and_is_equal(tmp_path: Path) -> None:
    tree = synthetic.tree(matrices=7, steps=(0, 10, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save(tree, tmp_path / "out" / "report.zarr")
        opened = xr.open_datatree(path, engine="zarr")
        assert_same(tree, opened)
        assert_same(tree, load(path))
    assert opened.attrs["archive"] == "synthetic"


def test_saving_again_replaces_the_older_report_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = save(synthetic.tree(matrices=7), tmp_path / "report.zarr")
    second = synthetic.tree(matrices=3, intruders=False)
    save(second, path)
    assert_same(second, load(path))
    assert [p.name for p in tmp_path.iterdir()] == ["report.zarr"]
