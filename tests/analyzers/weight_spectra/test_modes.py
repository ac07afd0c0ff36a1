"""The analyzer's modes over steps: Saxe's learning curves, crossings, spikes out of noise, and a run that grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from analyzers.contract import LowRank, Matrix
from analyzers.weight_spectra import WeightSpectra
from analyzers.weight_spectra.analyzer import WeightSpectraParameters
from analyzers.weight_spectra.modes import LIMIT, ModeOverlap, ModeOverlapTwo
from analyzers.weight_spectra.variables import FROM_MODES
from tests.analyzers.tracking.planted import frames, series
from tests.analyzers.weight_spectra.memory_view import derive

MODES = {variable.name: variable.dims for variable in FROM_MODES}


def followed(runs: dict[str, dict[int, Any]], **settings: Any) -> xr.Dataset:
    return derive(WeightSpectra(WeightSpectraParameters(mp_draws=50, **settings)), runs).dataset


def one_run(matrices: list[torch.Tensor], **settings: Any) -> xr.Dataset:
    named = {10 * step: {"W": w} for step, w in enumerate(matrices)}
    return followed({"r": named}, **settings).isel(run=0, matrix=0)


def saxe(strengths: np.ndarray, start: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The exact a(t) of Saxe, McClelland & Ganguli 2013 (eq. 12 there, τ = 1): (times, modes)."""
    growth = np.exp(2 * strengths * t[:, None])
    return strengths * growth / (growth - 1 + strengths / start)


def test_the_modes_of_a_deep_linear_network_are_saxes_sigmoids() -> None:
    """Two layers learn Σ = U diag(s) Vᵀ on whitened inputs by gradient descent from small aligned balanced weights."""
    strengths, start = np.array([3.0, 2.0, 1.2]), np.array([1e-4, 1e-3, 1e-2])  # the stronger start behind and overtake
    (u, v), (hidden, _) = frames(20, 16, 3, 1), frames(24, 24, 3, 2)
    first, second = (hidden * np.sqrt(start)) @ v.T, (u * np.sqrt(start)) @ hidden.T
    target, rate, every, count = (u * strengths) @ v.T, 1e-3, 150, 40
    saved = []
    for step in range(every * count + 1):
        if step % every == 0:
            saved.append({"first": torch.from_numpy(first.copy()), "second": torch.from_numpy(second.copy())})
        error = target - second @ first
        first, second = first + rate * second.T @ error, second + rate * error @ first.T
    run = {every * index: layers for index, layers in enumerate(saved)}
    dataset = followed({"r": run}, track_modes=3).isel(run=0)
    steps = dataset.step.values
    exact = saxe(strengths, start, rate * steps)
    # Euler's steps grow as (1 + ηs)^2n for e^{2ηsn}: late by ηst/2 at time t. A sigmoid's slope is at most s²/2, and it
    # is steep at t = ln(s/a0)/2s: |error| ≤ η s² ln(s/a0)/8 = .012 for s = 3; the others have less.
    for layer in ("first", "second"):
        modes = dataset.sel(matrix=layer)
        order = [int(np.nanargmin(np.abs(modes.mode_sigma.values[-1] ** 2 - s))) for s in strengths]
        assert sorted(order) == [0, 1, 2]
        # at the start ranks are those of a0, so the mode of s = 3 is the third: all of them change ranks on the way
        assert order == [2, 1, 0]
        assert (modes.mode_birth.values[:3] == 0).all() and np.isnan(modes.mode_death.values[:3]).all()
        np.testing.assert_allclose(modes.mode_sigma.values[:, order] ** 2, exact, atol=0.012)
    assert np.abs(exact[-1] - strengths).max() < 0.01 and (exact[0] == start).all(), "the whole sigmoid was seen"


def test_modes_do_not_depend_on_rows_signs_or_orientation() -> None:
    rng = np.random.default_rng(3)
    strengths = np.stack([4 - 3 * np.linspace(0, 1, 6), 1.2 + 3 * np.linspace(0, 1, 6), np.full(6, 0.6)], axis=1)
    matrices = series(strengths, noise=0.02)
    rows, signs = torch.from_numpy(rng.permutation(30)), torch.from_numpy(rng.choice([-1.0, 1.0], 20))
    plain = one_run(matrices, track_modes=3)
    for turned in ([w[rows] * signs for w in matrices], [w.T for w in matrices]):
        other = one_run(turned, track_modes=3)
        for name in MODES:
            np.testing.assert_allclose(other[name], plain[name], rtol=1e-9, err_msg=name)


def test_a_spike_out_of_noise_is_born_where_it_was_planted() -> None:
    m, n, planted, gone = 60, 40, 5, 10
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((m, n))  # one draw: what trains is the signal
    u, v = frames(m, n, 1)
    edge = np.sqrt(m) + np.sqrt(n)
    strength = np.where((np.arange(14) >= planted) & (np.arange(14) < gone), 2.5 * edge, 0.0)
    matrices = [torch.from_numpy(noise + s * u @ v.T) for s in strength]
    dataset = one_run(matrices).sel(bulk_scale="median")
    spikes = np.flatnonzero(np.isfinite(dataset.spike_birth))
    assert spikes.size == 1
    spike = dataset.isel(mode=spikes[0])
    assert (float(spike.mode_birth), float(spike.mode_death)) == (10 * planted, 10 * gone)
    assert (float(spike.spike_birth), float(spike.spike_death)) == (10 * planted, 10 * gone)
    assert np.isfinite(spike.mode_sigma.values).tolist() == (strength > 0).tolist()


def test_a_checkpoint_more_changes_no_earlier_value() -> None:
    rng = np.random.default_rng(1)
    strengths = np.abs(rng.normal(2.0, 1.0, (8, 5)))  # ranks cross, modes sink into the noise and come back
    matrices = series(strengths, noise=0.15)
    whole, short = one_run(matrices, track_modes=4), one_run(matrices[:-1], track_modes=4)
    count = short.sizes["mode"]
    assert count < whole.sizes["mode"] or count > 4, "tracks broke, or the test says nothing"
    before = whole.isel(step=slice(0, -1), mode=slice(0, count))
    for name in ("mode_sigma", "mode_birth", "spike_birth"):
        np.testing.assert_array_equal(before[name], short[name], err_msg=name)
    known = np.isfinite(short.mode_death.values)
    np.testing.assert_array_equal(before.mode_death.values[known], short.mode_death.values[known])


def test_an_adapters_modes_are_those_of_its_delta() -> None:
    u, v = frames(30, 20, 2)
    strengths = np.array([[1.0, 0.1], [0.9, 0.5], [0.8, 1.2], [0.7, 2.0]])
    steps = {
        step: {"W": Matrix.of(LowRank(torch.from_numpy(u * s), torch.from_numpy(v.T.copy()), 2.0), "W", role="delta")}
        for step, s in enumerate(strengths)
    }
    dataset = followed({"r": steps}).isel(run=0, matrix=0)
    np.testing.assert_allclose(dataset.mode_sigma, 2 * strengths, rtol=1e-12)
    assert np.isnan(dataset.spike_birth).all(), "no Marchenko–Pastur law applies to a product"


def test_runs_of_one_step_have_no_modes_and_following_can_be_switched_off() -> None:
    w = series(np.array([[3.0, 2.0]]))[0]
    assert not set(MODES) & set(followed({"r": {0: {"W": w}}}).data_vars)
    off = followed({"r": {0: {"W": w}, 1: {"W": w}}}, track=False)
    assert not set(MODES) & set(off.data_vars)
    on = followed({"r": {0: {"W": w}, 1: {"W": w}}, "alone": {1: {"W": w}}})
    assert {name: on[name].dims for name in MODES} == MODES
    assert on.mode.values.tolist() == list(range(1, 11))
    assert np.isnan(on.mode_sigma.sel(run="alone")).all()


def test_large_dense_matrices_are_followed_on_request_and_thin_factors_always() -> None:
    small, large = Matrix.of(torch.zeros(2000, 64)).info, Matrix.of(torch.zeros(128, 65)).info
    for statistic in (ModeOverlap(side=64), ModeOverlapTwo(side=64)):
        assert statistic.refuses(small, small) is None
        assert "track_side" in (statistic.refuses(large, large) or "")
        delta = Matrix.of(LowRank(torch.zeros(128, 2), torch.zeros(2, 65)), role="delta").info
        assert statistic.refuses(delta, delta) is None
        assert statistic.parameters() == {}, "what is refused does not change what is measured"
        assert statistic.as_stored, "of an adapter Δ is followed, not W0 + Δ, and its base need not be there"


def test_modes_that_come_and_go_without_end_are_cut_and_said() -> None:
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    matrices = []
    for step in range(28):  # five directions for two steps, then five others
        rows = np.arange(5) + 5 * (step // 2 % 8)
        matrices.append({"W": torch.from_numpy((frame[:, rows] * [5.0, 4.0, 3.0, 2.0, 1.0]) @ frame[:5])})
    derived = derive(
        WeightSpectra(WeightSpectraParameters(mp_draws=50, track_modes=5)), {"r": dict(enumerate(matrices))}
    )
    assert derived.dataset.sizes["mode"] == LIMIT
    assert any(f"{14 * 5 - LIMIT} are not" in note for note in derived.notes)


@pytest.mark.parametrize("wrong", [{"track_modes": 0}, {"track_side": 0}])
def test_settings_out_of_range_fail(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        WeightSpectraParameters(**wrong)
