"""Draws for a verdict: the first are those of the null of the checkpoint, and more extend them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyzers.contract import Context, LowRank, Observation, Result, Sum, Trial, Unit
from analyzers.errors import Unmeasurable
from analyzers.intruder_dimensions.analyzer import IntruderDimensions
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.matched import IntruderMatched, IntruderMatchedSpectral
from analyzers.intruder_dimensions.matched_null import IntruderMatchedNull
from analyzers.intruder_dimensions.null import IntruderNull, null_scores
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.intruder_dimensions.total_null import TotalNull, sweep_of
from analyzers.linalg.coordinate_null import Null
from analyzers.linalg.haar import haar_frame
from tests.analyzers.intruder_dimensions.memory import MemoryView, measure, observe
from tests.analyzers.intruder_dimensions.test_intruders import plain, random

BASE = random(18, 12, 1)
FEW = TotalNull(block=4, most=16, k=3, ks=(3,))


def observed(update: LowRank, name: str, seed: int) -> Observation:
    """With all inputs of `FEW`."""
    pair = observe(Sum(BASE, update), BASE, name)
    inputs = {one.name: measure(one, pair) for one in (Intruders(3), UpdateSpectrum())}
    null = measure(IntruderNull(6, 3), observe(Sum(BASE, update), BASE, name, statistics=inputs), seed=seed)
    return observe(Sum(BASE, update), BASE, name, statistics=inputs | {"intruder_null": null})


PAIRS = tuple(observed(LowRank(random(18, 2, s), random(2, 12, s + 5), 0.8), f"W{s}", s) for s in (2, 3))


def block(number: int, seed: int = 11, pairs: tuple[Observation, ...] = PAIRS) -> Result:
    return FEW.compute(Unit(pairs, {"block": number}), Context(seed=seed))


def blocks(*scores: np.ndarray) -> list[tuple[Trial, Result]]:
    """Blocks of four draws of one matrix that all score as given, observed at .9."""
    first = {"observed": np.full((1, 2, 3), 0.9), "slack": np.zeros((1, 2, 3))}
    common = {"matrices": np.array(["W"]), "step": np.asarray(7)}
    return [
        ({"block": i}, {"similarity": np.broadcast_to(s, (4, 1, 2, 3)), **common, **first})
        for i, s in enumerate(scores)
    ]


def test_the_first_block_holds_the_draws_of_the_checkpoints_own_null_and_the_scores() -> None:
    first = block(0)
    for place, pair in enumerate(PAIRS):
        null = pair.statistics["intruder_null"]["similarity"]
        np.testing.assert_array_equal(first["similarity"][:, place], null[:4].astype(np.float32))
        np.testing.assert_array_equal(first["observed"][place], pair.statistics["intruders"]["similarity"])
    assert first["matrices"].tolist() == ["W2", "W3"] and int(first["step"]) == 1


def test_later_blocks_are_new_draws_and_the_same_anywhere() -> None:
    second, again, other = block(1), block(1), block(2, seed=12)
    np.testing.assert_array_equal(second["similarity"], again["similarity"])
    for one, two in ((block(0), second), (second, other)):
        assert not np.isclose(one["similarity"], two["similarity"]).any(axis=-1).all()
    equal = (PAIRS[0], replace(PAIRS[0]))
    twins = block(1, pairs=equal)["similarity"]
    assert not np.isclose(twins[:, 0], twins[:, 1]).all(axis=-1).any(), "equal matrices have draws of their own"


def test_a_matrix_without_a_null_takes_no_part_and_none_at_all_is_a_reason() -> None:
    without = replace(PAIRS[0], statistics={k: v for k, v in PAIRS[0].statistics.items() if k != "intruder_null"})
    assert block(0, pairs=(without, PAIRS[1]))["matrices"].tolist() == ["W3"]
    with pytest.raises(Unmeasurable, match="both a score and a null"):
        block(0, pairs=(without,))


def test_draws_are_added_until_the_decision_is_clear_and_a_new_threshold_keeps_them() -> None:
    assert FEW.propose([]) == ({"block": 0},)
    above = np.full((4, 1, 2, 3), 0.2)  # all draws have more intruders than the run: fewer than chance, so far
    assert FEW.propose(blocks(above)) == ({"block": 1},)
    assert FEW.propose(blocks(above, above)) == ({"block": 2}, {"block": 3})
    assert FEW.propose(blocks(above, above, above, above)) == ()
    tied = replace(FEW, block=20, most=400)
    ties = [(t, r | {"similarity": np.full((20, 1, 2, 3), 0.9)}) for t, r in blocks(above)]
    assert tied.propose(ties) == (), "equal counts are decided by twenty"
    assert FEW.propose([({"block": 0}, Unmeasurable("no matrix"))]) == ()
    assert FEW.parameters() == replace(FEW, ks=(1,), epsilons=(0.5,), most=99).parameters() != TotalNull().parameters()


def test_undetermined_scores_are_counted_against_the_direction_tested() -> None:
    draws = np.full((4, 1, 2, 3), 0.6)
    (number, first), *rest = blocks(draws, draws, draws, draws, draws)
    doubtful = first | {"observed": np.full((1, 2, 3), 0.49), "slack": np.full((1, 2, 3), 0.02)}
    sweep = sweep_of([(number, doubtful), *rest])
    assert sweep is not None
    np.testing.assert_array_equal(sweep.exceeding((3,), (0.5,)), [0, 20])
    np.testing.assert_array_equal(sweep.exceeding((3,), (0.5,), sure=True), [20, 20])


@pytest.fixture(scope="module")
def derived():
    """Two runs of three matrices: updates in random directions, and the base's own directions made stronger."""
    rng = np.random.default_rng(5)
    bases = {f"W{i}": torch.from_numpy(rng.standard_normal((24, 20))) for i in range(3)}

    def chance(base: torch.Tensor) -> LowRank:
        strength = 0.9 * float(torch.linalg.matrix_norm(base, 2))
        left, right = haar_frame(24, 3, rng), haar_frame(20, 3, rng)
        return LowRank(torch.from_numpy(left * strength), torch.from_numpy(right.T.copy()), 1.0)

    def aligned(base: torch.Tensor) -> LowRank:
        u, sigma, vh = torch.linalg.svd(base, full_matrices=False)
        return LowRank(u[:, :3] * (0.9 * sigma[0]), vh[:3].contiguous(), 1.0)

    steps = {"chance": chance, "aligned": aligned}
    tuned = {run: {1: {n: Sum(b, make(b)) for n, b in bases.items()}} for run, make in steps.items()}
    settings = IntruderDimensions.Parameters(k_max=5, ks=(2, 5), births=False, across_runs=False)
    return IntruderDimensions(settings).derive(MemoryView(tuned, bases)).dataset


def test_random_directions_are_not_told_from_chance_and_aligned_ones_are_fewer(derived) -> None:
    chance, aligned = (derived.sel(run=run) for run in ("chance", "aligned"))
    assert float(chance["total_intruders_p_corrected"].min()) > 0.05
    assert float(aligned["total_intruders_p_corrected"].sel(direction="fewer")) <= 0.05
    assert float(aligned["total_intruders_draws"]) == 400, "a verdict has all the draws"
    assert float(chance["total_intruders_tested"]) == 3
    for name in ("total_intruders_p",):
        assert bool((derived[f"{name}_low"] <= derived[name]).all()) and bool((derived[name] <= 1).all())


def test_the_page_and_the_p_use_the_same_draws(derived) -> None:
    node = derived.sel(run="aligned", step=1)
    np.testing.assert_allclose(node["n_intruders_null"].sum("matrix"), node["total_intruders_null"], atol=1e-5)
    assert not np.allclose(np.asarray(node["total_intruders_null"]) * 20 % 1, 0), "it is no mean of twenty draws"


def test_matched_updates_have_the_spectral_norm_they_are_matched_to() -> None:
    full = 0.05 * random(18, 12, 4)
    update = LowRank(random(18, 2, 2), random(2, 12, 3), 0.8)
    runs = []
    for tuned, run in ((Sum(BASE, update), "lora"), (BASE + full, "full")):
        spectrum = {"update_spectrum": measure(UpdateSpectrum(), observe(tuned, BASE))}
        runs.append(observe(tuned, BASE, run=run, statistics=spectrum))
    result = measure(IntruderMatchedSpectral(3), *runs)
    norms = [float(torch.linalg.matrix_norm(x, 2)) for x in (update.dense(), full)]
    common = float(np.sqrt(norms[0] * norms[1]))
    np.testing.assert_allclose(result["norm"], [*norms, common], rtol=1e-10)
    for row, (own, norm) in enumerate(zip((update.dense(), full), norms, strict=True)):
        np.testing.assert_allclose(
            result["similarity"][row, 2], plain(BASE + own * (common / norm), BASE, 3), atol=2e-7
        )
    null = measure(IntruderMatchedNull(4, 3), *runs)
    assert null["similarity"].shape == (2, 2, 4, 2, 3)
    np.testing.assert_array_equal(null["members"], measure(IntruderMatched(3), *runs)["members"])
    generators = [np.random.default_rng((7, 0, draw)) for draw in range(4)]
    scaled = runs[0].statistics["update_spectrum"]["sigma"] * (common / norms[0])
    sigma_base = np.linalg.svd(BASE.numpy(), compute_uv=False)
    [(expected, _)] = null_scores([Null(sigma_base, scaled, (18, 12), generators)], 3)
    np.testing.assert_allclose(null["similarity"][1, 0], expected, atol=1e-6)
    assert np.isnan(measure(IntruderMatchedNull(4, 3), runs[0])["similarity"]).all(), "one run has nothing to match"


def test_matched_counts_stand_beside_the_null_of_their_norm(derived) -> None:
    at = {"run": "aligned", "norm": "spectral"}
    assert set(derived["norm"].values) == {"frobenius", "spectral"}
    own = derived["n_intruders_matched_spectral"].sel(run="aligned", matched_to="geometric_mean").sum("matrix")
    np.testing.assert_array_equal(derived["total_matched"].sel(at), own)
    assert bool((derived["total_matched"].sel(at) <= derived["total_matched_null_high"].sel(at)).all())
    assert float(derived["total_matched_null"].sel(at).max()) > 0
