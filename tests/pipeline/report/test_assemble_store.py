"""`assemble` on a real store: computed values, and the tables of what failed or has no value."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from analyzers.weight_spectra import WeightSpectra
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.report import assemble, load, save
from pipeline.report.tables import rows_of
from pipeline.store import Store
from tests.pipeline.compute.plugins import Change, Everything, Norm
from tests.pipeline.compute.stores import LAYERS, ingest, small_store, weights, write_full

DAMAGED = LAYERS[0]


class Failing(Norm):
    """A statistic that no matrix survives."""

    name = "test_failing"

    def compute(self, unit, context):  # type: ignore[no-untyped-def]
        raise RuntimeError("the machine is on fire")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    """Two runs on a base, one run with a NaN and no base; spectra, changes, and a statistic that fails."""
    tmp = tmp_path_factory.mktemp("assemble")
    store = small_store(tmp, steps=(10, 20))
    broken = weights(7)
    broken[DAMAGED][0, 0] = np.nan
    write_full(tmp / "runs" / "broken" / "checkpoint-5", broken)
    store = ingest(tmp / "runs", tmp / "S.zarr", {"runs/full": ("runs/base@0", "sibling")})
    analyzers = [WeightSpectra(), Everything(Norm(), Change(), Failing())]
    with ThreadCluster(1) as cluster:
        compute(store, analyzers, cluster)
    assembled = assemble(Store.open(store.path), analyzers)
    return load(save(assembled, tmp / "report.zarr"))


def test_values_are_those_of_the_matrices(tree: xr.DataTree) -> None:
    found = tree["weight_spectra/spectral_norm"].sel(run="runs/base", step=0, matrix="layers.0.mlp.up_proj")
    assert float(found) == pytest.approx(np.linalg.norm(weights(0)[DAMAGED].astype(float), 2), rel=1e-12)
    damaged = tree["weight_spectra/spectral_norm"].sel(run="runs/broken", step=5)
    assert np.isnan(damaged.sel(matrix="layers.0.mlp.up_proj")) and not np.isnan(
        damaged.sel(matrix="layers.1.mlp.up_proj")
    )


def test_failures_are_listed_with_place_and_error(tree: xr.DataTree) -> None:
    rows = rows_of(tree["archive/failures"].to_dataset())
    assert tree["archive"].attrs["n_failures"] == len(rows) > 0
    assert {row["statistic"] for row in rows} == {"test_failing"}
    assert all("the machine is on fire" in row["error"] and row["run"] and row["matrix"] for row in rows)


def test_what_is_wrong_names_file_tensor_and_reason_and_is_told_from_design(tree: xr.DataTree) -> None:
    rows = rows_of(tree["archive/skipped"].to_dataset())
    wrong = [row for row in rows if row["wrong"]]
    nan = [row for row in wrong if "not finite" in row["reason"]]
    assert nan and all(row["tensors"] == DAMAGED and "broken/checkpoint-5" in row["file"] for row in nan)
    assert any("power law" in row["reason"] and not row["wrong"] for row in rows)
    assert rows[0]["wrong"]


def test_the_root_says_what_computed_it(tree: xr.DataTree) -> None:
    assert "torch" in tree.attrs["software"] and "weight_spectra" in tree.attrs["analyzers"]
    assert tree["provenance"].sizes["checkpoint"] == 6  # base, two of full, two of lora, broken
