"""Paths and tracks on series whose modes are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.tracking.follow import Links, follow_back, follow_forward
from analyzers.tracking.tracks import Modes, modes_of, spikes_of
from tests.analyzers.tracking.planted import leading, links, series


def crossing() -> np.ndarray:
    """Three modes; the first falls while the second rises through it."""
    t = np.linspace(0, 1, 9)
    return np.stack([4 - 3 * t, 1.2 + 3 * t, np.full(9, 0.5)], axis=1)


def tracked(strengths: np.ndarray, k: int = 3, noise: float = 1e-3) -> Modes:
    matrices = series(strengths, noise=noise)
    sigma = leading(matrices, k)
    return modes_of(follow_forward(links(matrices, k), ~np.isnan(sigma)), sigma, 64)


def test_crossing_modes_are_followed_by_their_vectors_and_not_by_rank() -> None:
    strengths = crossing()
    modes = tracked(strengths)
    # noise of 1e-3 in 30 × 20 entries moves a σ by at most its norm, 1e-3 (√30 + √20) = .01
    np.testing.assert_allclose(modes.sigma[:, 0], strengths, atol=0.012)
    assert modes.born.tolist() == [[0, 0, 0]] and modes.dead.tolist() == [[-1, -1, -1]]
    back = follow_back(links(series(strengths), 3), np.array([8]))
    assert back[0, 0].tolist() == [1, 0, 2] and back[8, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("missed", "bridged"), [(1, True), (2, False)])
def test_one_missed_step_is_bridged_and_two_are_not(missed: int, bridged: bool) -> None:
    strengths = np.tile([4.0, 3.0, 2.0], (9, 1))
    strengths[4 : 4 + missed, 1] = 0.0  # it is not among the leading three there
    modes = tracked(strengths)
    seen = ~np.isnan(modes.sigma[:, 0])
    again = 4 + missed
    if bridged:
        assert modes.born.tolist() == [[0, 0, 0]] and (modes.dead == -1).all()
        assert np.flatnonzero(~seen[:, 1]).tolist() == [4]
    else:
        assert modes.born.tolist() == [[0, 0, 0, again]] and modes.dead.tolist() == [[-1, 4, -1, -1]]
    path = follow_back(links(series(strengths), 3), np.array([8]))
    assert (path[again:, 0, 1] == 1).all()
    assert (path[:4, 0, 1] == (1 if bridged else -1)).all()


def test_what_is_missed_at_the_last_step_only_is_not_dead_yet() -> None:
    strengths = np.tile([4.0, 3.0, 2.0], (6, 1))
    strengths[5, 1] = 0.0
    assert tracked(strengths).dead.tolist() == [[-1, -1, -1]]
    strengths[4, 1] = 0.0
    assert tracked(strengths).dead.tolist() == [[-1, 4, -1]]


def test_a_mode_that_is_born_late_stands_after_those_that_were_there() -> None:
    strengths = np.tile([4.0, 3.0, 0.0], (8, 1))
    strengths[5:, 2] = 6.0  # the greatest of all at once
    modes = tracked(strengths, k=3, noise=1e-2)
    lasting = np.flatnonzero(modes.last[0] == 7)
    greatest = lasting[np.nanargmax(modes.sigma[7, 0, lasting])]
    assert modes.born[0, greatest] == 5 and greatest > 1
    np.testing.assert_allclose(modes.sigma[:, 0, 0], 4.0, atol=0.1)  # noise of norm 1e-2 (√30 + √20)


@given(data=st.data(), steps=st.integers(2, 9), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_step_more_changes_nothing_that_was_known(data: st.DataObject, steps: int, seed: int) -> None:
    """On overlaps without any order in them: tracks break, bridge and compete."""
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, 5))
    tables = [np.abs(np.array([random_rotation(rng, k) for _ in range(steps)]))[:, None] for _ in range(2)]
    present = rng.random((steps, 1, k)) > 0.1
    for lag, table in enumerate(tables, start=1):
        table[:lag] = np.nan
        for t in range(lag, steps):
            table[t, 0][~present[t, 0]] = np.nan
            table[t, 0][:, ~present[t - lag, 0]] = np.nan
    sigma = np.where(present, rng.random((steps, 1, k)) + 0.5, np.nan)
    whole, short = (
        modes_of(follow_forward(Links(tables[0][:t], tables[1][:t]), present[:t]), sigma[:t], 64)
        for t in (steps, steps - 1)
    )
    count = short.born.shape[1]
    np.testing.assert_array_equal(whole.sigma[: steps - 1, :, :count], short.sigma)
    np.testing.assert_array_equal(whole.born[:, :count], short.born)
    known = short.dead >= 0
    np.testing.assert_array_equal(whole.dead[:, :count][known], short.dead[known])
    tracks = follow_forward(Links(*tables), present)
    assert ((tracks >= 0) == present).all()
    for row in tracks[:, 0]:
        assert len(set(row[row >= 0])) == (row >= 0).sum(), "two vectors of one step are never one mode"


def random_rotation(rng: np.random.Generator, k: int) -> np.ndarray:
    """An orthogonal k × k near a permutation: most rows have one entry above .7, some none."""
    return np.linalg.qr(np.eye(k)[rng.permutation(k)] + rng.uniform(0, 0.6) * rng.standard_normal((k, k)))[0]


def test_a_spike_that_trembles_about_the_edge_is_one_spike() -> None:
    eigenvalues = np.array([0.5, 1.05, 1.2, 1.02, 0.97, 1.05, 1.3, 1.3])
    modes = Modes(np.sqrt(eigenvalues)[:, None, None], *(np.array([[i]]) for i in (0, 7, -1)), np.zeros(1))
    born, left = spikes_of(modes, np.ones((8, 1, 1)))
    assert born.item() == 2, "1.05 is not enough to enter"
    assert left.item() == -1, "it is a spike again at the end"
    born, left = spikes_of(modes, np.where(np.arange(8) < 6, 1.0, 2.0)[:, None, None])
    assert (born.item(), left.item()) == (2, 4), "1.02 is still inside, .97 is not, 1.05 does not enter again"
    assert spikes_of(modes, np.full((8, 1, 1), np.nan))[0].item() == -1, "no law, no spike"


def test_a_spike_ends_with_its_mode() -> None:
    sigma = np.array([2.0, 2.0, 2.0, np.nan, np.nan])[:, None, None]
    modes = Modes(sigma, *(np.array([[i]]) for i in (0, 2, 3)), np.zeros(1))
    assert [index.item() for index in spikes_of(modes, np.ones((5, 1, 1)))] == [0, 3]


def test_modes_beyond_the_limit_are_counted() -> None:
    tracks = np.tile(np.arange(4), (3, 1))[:, None]
    modes = modes_of(tracks, np.ones((3, 1, 4)), 3)
    assert modes.born.shape == (1, 3) and modes.left_out.tolist() == [1]
    assert modes_of(tracks[:1], np.ones((1, 1, 4)), 3).born.shape == (1, 0), "seen once is not followed"


def test_a_mode_that_is_seen_again_late_stands_behind_those_that_were_seen_again_before() -> None:
    tracks = np.array([[0, 1], [1, 2], [0, 1]])[:, None]  # the first is missed at the second step
    sigma = np.where(tracks == 0, 5.0, 3.0)
    assert modes_of(tracks[:2], sigma[:2], 9).sigma[:, 0].tolist() == [[3.0], [3.0]]
    whole = modes_of(tracks, sigma, 9)
    np.testing.assert_array_equal(whole.sigma[:, 0], [[3.0, 5.0], [3.0, np.nan], [3.0, 5.0]])
