"""A report on disk is the report in memory, or it is not there."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from analyzers.errors import ReportError
from pipeline.report import files, load, save
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


def test_nodes_and_variables_keep_their_order(tmp_path: Path) -> None:
    tree = synthetic.tree(matrices=3, steps=(0, 10))
    loaded = load(save(tree, tmp_path / "report.zarr"))
    assert list(loaded.children) == list(tree.children)
    assert list(loaded["weight_spectra"].data_vars) == list(tree["weight_spectra"].data_vars)


def test_a_failed_save_leaves_the_older_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = synthetic.tree(matrices=3, intruders=False)
    path = save(first, tmp_path / "report.zarr")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(ReportError, match=r"report\.zarr.*No space left"):
        save(synthetic.tree(matrices=4), path)
    monkeypatch.undo()
    assert_same(first, load(path))
    assert [p.name for p in tmp_path.iterdir()] == ["report.zarr"]


def test_what_is_not_a_report_is_neither_replaced_nor_read(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(ReportError, match="not a varve report"):
        save(synthetic.tree(matrices=2), folder)
    assert (folder / "chapter.txt").read_text() == "years of work"
    with pytest.raises(ReportError, match=r"no zarr\.json"):
        load(folder)
    with pytest.raises(ReportError, match="there is no report"):
        load(tmp_path / "nowhere")
    (folder / "zarr.json").write_text('{"attributes": {"varve_schema": 1}}')
    with pytest.raises(ReportError, match="store, not a report: make one with `varve report"):
        load(folder)
    (folder / "zarr.json").write_text('{"attributes": {"varve_report": 99}}')
    with pytest.raises(ReportError, match="format 99"):
        load(folder)
    (folder / "zarr.json").write_text("{")
    with pytest.raises(ReportError, match="not a readable report"):
        load(folder)


def test_a_report_of_a_thousand_checkpoints_is_few_files_and_saves_in_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    variables = {
        f"variable_{i}": (("run", "step", "matrix"), rng.normal(size=(1, 1000, 300)), {"units": "1"}) for i in range(20)
    }
    coordinates = synthetic.coordinates(["run"], range(1000), 300)
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "/weight_spectra": xr.Dataset(variables, coordinates)})
    started = time.process_time()
    path = save(tree, tmp_path / "report.zarr")
    spent = time.process_time() - started
    files = sum(1 for p in path.rglob("*") if p.is_file())
    assert files < 80  # two per array: its metadata and its one chunk
    assert spent < 20  # measured: 3 s of CPU for 48 MB


@given(shape=st.lists(st.integers(0, 40), max_size=4), itemsize=st.sampled_from([1, 8]))
def test_chunks_are_positive_cover_the_array_and_stay_bounded(shape: list[int], itemsize: int) -> None:
    variable = xr.Variable([f"d{i}" for i in range(len(shape))], np.empty(shape, dtype=f"V{itemsize}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_BYTES", 4096)
        chunks = files.chunks_of(variable)
    assert len(chunks) == len(shape) and all(chunk >= 1 for chunk in chunks)
    if shape and min(shape) > 0:
        row = variable.nbytes // shape[0]
        assert np.prod(chunks) * itemsize < 4096 + row  # at most one row above the limit
        count = -(-shape[0] // chunks[0])
        assert count * chunks[0] - shape[0] < count  # blocks are even: less than one padded row per block
