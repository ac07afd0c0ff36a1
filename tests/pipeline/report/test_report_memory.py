"""Making a report holds what one analyzer derives at most, and writing it one part of a node at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from analyzers.contract import Derived
from pipeline.report import files, load, save, spill
from pipeline.report.spill import Spill

RUNS, STEPS, MATRICES = 3, 4, 5


def derived(seed: int, variables: int = 6, width: int = 7) -> Derived:
    """Numbers over (run, step, matrix, k) with NaN among them, coordinates of strings, and a run's own dataset."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape)
        values[rng.random(shape) < 0.2] = np.nan
        return values

    names = [f"v{at}" for at in range(variables)]
    data = {
        name: (("run", "step", "matrix", "k"), numbers(RUNS, STEPS, MATRICES, width), {"units": "1"}) for name in names
    }
    of_runs = (("run",), np.array(["first_step", "", "given"], dtype=object))
    coordinates = {
        "run": [f"x/run{at}" for at in range(RUNS)],
        "step": np.arange(STEPS) * 10,
        "matrix": [f"layers.{at}" for at in range(MATRICES)],
        "kind": ("matrix", np.array(list("qkvoq"), dtype=object)),
        "role": (("run", "matrix"), np.full((RUNS, MATRICES), "weight", dtype=object)),
    }
    whole = xr.Dataset({**data, "base_kind": of_runs, "count": (("run",), np.arange(RUNS))}, coordinates)
    sigma = xr.Dataset({"sigma": (("step", "rank"), numbers(STEPS, 9))}, {"step": coordinates["step"]})
    return Derived(whole, {"x/run0": sigma}, ("a note",))


def test_what_is_spilled_reads_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "SMALLEST_BYTES", 100)
    before = derived(1)
    with Spill(tmp_path / "report.zarr") as folder:
        after = folder.keep(before)
        assert list(tmp_path.iterdir()), "large arrays are files"
        xr.testing.assert_identical(after.dataset, before.dataset)
        xr.testing.assert_identical(after.runs["x/run0"], before.runs["x/run0"])
        assert after.notes == before.notes
        chosen = {"run": [2, 0], "step": slice(None, None, 2), "k": 3}
        xr.testing.assert_identical(after.dataset.isel(chosen), before.dataset.isel(chosen))
        name = "x/run1"
        xr.testing.assert_identical(after.dataset["v1"].sel(run=name), before.dataset["v1"].sel(run=name))
    assert not list(tmp_path.iterdir())


def test_small_arrays_stay_in_memory(tmp_path: Path) -> None:
    with Spill(tmp_path / "report.zarr") as folder:
        assert folder.keep(derived(1)).dataset is not None
        assert not list(tmp_path.iterdir())


def test_a_node_written_in_parts_is_the_node_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"title": "t"}), "/a": derived(2).dataset, "/b": derived(3).dataset}
    )
    whole = load(save(tree, tmp_path / "whole.zarr"))
    monkeypatch.setattr(files, "TOGETHER_BYTES", 2 * tree["a"]["v0"].nbytes)
    parts = load(save(tree, tmp_path / "parts.zarr"))
    for path in ("/", "/a", "/b"):
        xr.testing.assert_identical(parts[path].to_dataset(), whole[path].to_dataset())
        assert list(parts[path].data_vars) == list(whole[path].data_vars)
        for name, variable in parts[path].dataset.variables.items():
            assert variable.dtype == whole[path].dataset.variables[name].dtype


def test_memory_follows_the_largest_array_and_not_their_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four analyzers of 24 arrays of 1 MB: what is live between them is small, and writing takes a few arrays."""
    largest = 8 * RUNS * STEPS * MATRICES * 2048
    monkeypatch.setattr(files, "TOGETHER_BYTES", 2 * largest)
    monkeypatch.setattr(spill, "SMALLEST_BYTES", largest // 2)
    with Spill(tmp_path / "report.zarr") as folder:
        save(xr.DataTree.from_dict({"/a": folder.keep(derived(0)).dataset}), tmp_path / "first.zarr")  # imports
        tracemalloc.start()
        try:
            nodes = {f"/a{seed}": folder.keep(derived(seed, 24, 2048)).dataset for seed in range(4)}
            held, peak = tracemalloc.get_traced_memory()
            assert held < 2 * largest, "nothing large stays"
            assert peak < (24 + 8) * largest, "one analyzer at a time"
            tracemalloc.reset_peak()
            save(xr.DataTree.from_dict(nodes), tmp_path / "report.zarr")
            assert tracemalloc.get_traced_memory()[1] < held + 8 * largest, "a few arrays at a time"
        finally:
            tracemalloc.stop()
