"""A folder of checkpoints in which modes cross and an intruder is born, by the library, and again when it has grown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

import pipeline
from tests.analyzers.tracking.planted import frames

ANALYZERS = ("weight_spectra", "intruder_dimensions")
SETTINGS = {
    "weight_spectra": {"track_modes": 4, "mp_draws": 50},
    "intruder_dimensions": {"k_max": 4, "ks": [4], "epsilons": [0.6], "null": False, "matched": False},
}
STEPS = (0, 10, 20, 50, 100, 200, 300)
BORN = 50
M, N = 48, 32


def strengths(step: int) -> np.ndarray:
    """Of six modes: two that cross, two that stay, and from step 50 on a newcomer, which joins the leading four."""
    t = step / 300
    return np.array([9 - 3 * t, 6.2 + 4 * t, 3.0, 2.0, 0.5, 5.0 if step >= BORN else 0.0])


def checkpoint(folder: Path, step: int) -> None:
    u, v = frames(M, N, 6, 1)
    noise = 1e-3 * np.random.default_rng(step).standard_normal((M, N))
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    weight = ((u * strengths(step)) @ v.T + noise).astype(np.float32)
    save_file({"layers.0.mlp.up_proj.weight": weight}, path / "model.safetensors")


def analysed(archive: Path, store_path: Path) -> tuple[pipeline.Summary, xr.DataTree]:
    store = pipeline.ingest(archive, store_path)
    summary = pipeline.compute(store, ANALYZERS, SETTINGS, workers=1)
    assert summary.complete
    return summary, pipeline.assemble(store, ANALYZERS, SETTINGS)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, xr.DataTree, int, xr.DataTree]:
    root = tmp_path_factory.mktemp("tracking")
    for step in STEPS[:-1]:
        checkpoint(root / "runs" / "one", step)
    first, before = analysed(root / "runs", root / "S.zarr")
    checkpoint(root / "runs" / "one", STEPS[-1])
    second, after = analysed(root / "runs", root / "S.zarr")
    return first.measured, before, second.measured, after


def test_sigma_of_a_mode_is_its_own_through_the_crossing(grown: tuple) -> None:
    modes = grown[3]["weight_spectra"].to_dataset().isel(run=0, matrix=0)
    expected = np.array([strengths(step) for step in STEPS])
    for planted in (0, 1, 2):
        # the noise's norm, 1e-3 (√48 + √32) = .013
        error = np.abs(modes.mode_sigma.values - expected[:, planted, None]).max(axis=0)
        assert np.nanmin(error) < 0.015, f"mode {planted} is followed over all steps"
    newcomer = int(np.flatnonzero(modes.mode_birth.values == BORN)[0])
    np.testing.assert_allclose(modes.mode_sigma.values[3:, newcomer], 5.0, atol=0.015)
    assert np.isnan(modes.mode_sigma.values[:3, newcomer]).all()
    overtaken = modes.mode_death.values == BORN  # the fourth, σ = 2, is the fifth from then on
    assert overtaken.sum() == 1 and modes.mode_sigma.values[0, overtaken] == pytest.approx(2.0, abs=0.015)


def test_the_intruder_is_born_in_its_interval(grown: tuple) -> None:
    node = grown[3]["intruder_dimensions"].to_dataset().isel(run=0, matrix=0, k=0, epsilon=0)
    assert str(node.base_kind.values) == "first_step"
    for side in range(2):
        born, after = node.birth_step.values[side], node.birth_after.values[side]
        assert born[np.isfinite(born)].tolist() == [BORN] and after[np.isfinite(born)].tolist() == [20]
        assert int(node.n_intruders.values[-1, side]) == 1
        assert int(np.flatnonzero(np.isfinite(born))[0]) == 2, "at the last step it is the third"


def test_a_new_checkpoint_costs_its_own_and_moves_no_earlier_value(grown: tuple) -> None:
    first, before, second, after = grown
    assert second < first
    old, new = before["weight_spectra"].to_dataset(), after["weight_spectra"].to_dataset()
    new = new.isel(step=slice(0, len(STEPS) - 1), mode=slice(0, old.sizes["mode"]))
    for name in ("mode_sigma", "mode_birth"):
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    births = [tree["intruder_dimensions"]["birth_step"].values for tree in (before, after)]
    assert [np.unique(b[np.isfinite(b)]).tolist() for b in births] == [[BORN], [BORN]]


def test_the_page_shows_them(grown: tuple, tmp_path: Path) -> None:
    _, html = pipeline.write_report(grown[3], tmp_path)
    text = html.read_text()
    assert "Singular modes over steps" in text and "Births of intruder dimensions" in text
    assert "Births of the last step" in text
