"""Every number of the report against plain definitions, over one archive of many layouts, through the command.

Tolerance: 1e-8 relative. Both sides are float64; the product's σ come from a Gram matrix (error 8.5 ε κ² per σ: κ is
under 1e3 here but for the deficient matrix), its scores from base vectors kept in float32 (6e-8 absolute).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr

from analyzers.linalg.gaussian_null import edge_widening
from tests.end_to_end import oracle
from tests.end_to_end.archives import varve
from tests.end_to_end.numbers_archive import LINEAR, Truth, Truths, build

SCORE_TOLERANCE = 5e-7
"""float32 base vectors: 2⁻²⁴ each, and the product's own stated bound stays below it here."""
FIRST_STEP = ("zoo/convnet", "zoo/moe")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truths, xr.DataTree]:
    folder = tmp_path_factory.mktemp("numbers")
    truths = build(folder / "zoo")
    done = varve("analyze", folder / "zoo", "--out", folder / "out", "--no-flow", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    return truths, xr.open_datatree(folder / "out/report.zarr", engine="zarr").load()


def close(got: float, want: float, what: str, relative: float = 1e-8, absolute: float = 0.0) -> None:
    assert np.isnan(got) == np.isnan(want) and (
        np.isnan(want) or math.isclose(got, want, rel_tol=relative, abs_tol=absolute)
    ), f"{what}: the report has {got!r}, the definition gives {want!r}"


def places(truths: Truths, node: xr.Dataset, compared: bool = False) -> Iterator[tuple[str, Truth, xr.Dataset]]:
    """What, truth and report of every matrix; `compared`: only of those that have a base."""
    for (run, step, matrix), truth in truths.items():
        if compared and truth.base is None:
            assert np.isnan(node["delta_norm"].sel(run=run, step=step, matrix=matrix)), (run, step, matrix)
            continue
        yield f"{run}@{step} {matrix}", truth, node.sel(run=run, step=step, matrix=matrix)


def head_size(what: str, truth: Truth) -> int | None:
    """p of an attention circuit, whose rank is bounded by it."""
    return truth.factors[0].shape[1] if truth.factors and ".head" in what else None


def floor_of(truth: Truth) -> float:
    """noise_floor of a dense matrix of float32 or bfloat16."""
    bits = 7 if truth.stored.dtype.itemsize == 2 else 23
    m, n = truth.w.shape
    return math.sqrt(oracle.mean_squared_ulp(truth.stored, bits, -126) / 12) * (math.sqrt(m) + math.sqrt(n))


def test_every_spectral_scalar_is_its_definition(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    node = tree["weight_spectra"].to_dataset()
    for what, truth, cell in places(truths, node):
        noise = float(cell["noise_floor"]) if truth.factors else floor_of(truth)
        if not truth.factors:
            close(float(cell["noise_floor"]), noise, f"{what} noise_floor")
        widening = edge_widening(*sorted(truth.w.shape), "median")
        expected = oracle.spectrum(truth.measured, noise, truth.factors is not None, head_size(what, truth), widening)
        for name, want in expected.items():
            if name.startswith("energy_rank_"):
                got = cell["energy_rank"].sel(energy=float(name.rsplit("_", 1)[1]))
            elif name.rsplit("_", 1)[-1] in ("total", "median"):
                stem, scale = name.rsplit("_", 1)
                got = cell[stem].sel(bulk_scale=scale)
            else:
                got = cell[name]
            # The smallest σ of a κ = 1e3 matrix is good to 8.5 ε κ² = 2e-9; Hill's and α sum many of them.
            close(float(got), want, f"{what} {name}", 1e-7 if name == "condition_number" else 1e-8)
        bulk = min(truth.w.shape) - cell["n_spikes"].values
        judged = np.isfinite(cell["mp_ks_p"].values)
        assert (judged == (bulk >= 10)).all(), what  # NaN spikes (a product) are not ≥ 10
        assert ((cell["mp_ks_p"].values[judged] > 0) & (cell["mp_ks_p"].values[judged] <= 1)).all(), what


def test_entries_are_their_definitions(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    for what, truth, cell in places(truths, tree["weight_spectra"].to_dataset()):
        if ".head" in what:  # a circuit's product is never expanded
            assert np.isnan(cell["entry_std"]), what
            continue
        w = truth.measured
        centred = w - w.mean()
        close(float(cell["entry_mean"]), w.mean(), f"{what} mean", 1e-8, 1e-16)
        close(float(cell["entry_std"]), w.std(), f"{what} std")
        kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
        close(float(cell["entry_kurtosis"]), kurtosis, f"{what} kurtosis")
        close(float(cell["zero_fraction"]), float((w == 0).mean()), f"{what} zeros")
        if w.size > 100:
            beta, scale = oracle.ggd(w)
            close(float(cell["ggd_shape"]), beta, f"{what} ggd_shape", 1e-5)
            close(float(cell["ggd_scale"]), scale, f"{what} ggd_scale", 1e-5)


def test_full_spectra_and_quantiles_are_the_singular_values(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    node = tree["weight_spectra"].to_dataset()
    full = {str(c.attrs.get("run", name)): c for name, c in tree["weight_spectra/runs"].children.items()}
    for (run, step, matrix), truth in truths.items():
        sigma = np.linalg.svd(truth.measured, compute_uv=False)
        if truth.factors:
            sigma = sigma[: min(truth.factors[0].shape[1], *truth.w.shape)]
        got = full[run]["sigma"].sel(step=step, matrix=matrix).values
        got = got[np.isfinite(got)]
        np.testing.assert_allclose(got, sigma, atol=1e-10 * sigma[0], err_msg=f"{run}@{step} {matrix}")
        quantiles = node["sigma_quantile"].sel(run=run, step=step, matrix=matrix).values
        wanted = np.quantile(sigma, np.linspace(0, 1, 64))
        np.testing.assert_allclose(quantiles, wanted, atol=1e-10 * sigma[0], err_msg=f"{run}@{step} {matrix}")


def test_welore_shares_one_threshold_per_checkpoint(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    node = tree["weight_spectra"].to_dataset()
    for run, step in {key[:2] for key, truth in truths.items() if not truth.factors}:
        names = [key[2] for key, truth in truths.items() if key[:2] == (run, step) and not truth.factors]
        spectra = [np.linalg.svd(truths[run, step, name].w, compute_uv=False) for name in names]
        for name, want in zip(names, oracle.welore(spectra), strict=True):
            cell = node.sel(run=run, step=step, matrix=name)
            close(float(cell["welore_rank_reduction"]), want, f"{run}@{step} {name} welore", 1e-12)
            assert float(cell["welore_class"]) == float(want >= 0.5)


def test_scores_and_counts_are_those_of_full_svds(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    node = tree["intruder_dimensions"].to_dataset()
    for what, truth, cell in places(truths, node, compared=True):
        similarity, sigma = oracle.scores(truth.w, truth.base)
        identical = np.array_equal(truth.w, truth.base)
        error = cell["score_error"].values
        sure = error < SCORE_TOLERANCE  # inside clusters and null spaces no reference exists
        if identical:
            assert (cell["similarity"].values[np.isfinite(similarity)] == 1).all(), what
            continue
        np.testing.assert_array_equal(np.isnan(cell["similarity"].values), np.isnan(similarity), err_msg=what)
        assert sure.mean() > 0.2 or "deficient" in what or min(truth.w.shape) < 10, (what, error)
        np.testing.assert_allclose(
            cell["similarity"].values[sure], similarity[sure], atol=SCORE_TOLERANCE, err_msg=what
        )
        reach = error + SCORE_TOLERANCE
        off = np.abs(cell["similarity"].values - similarity) > reach
        assert not off.any(), f"{what}: {cell['similarity'].values[off]} against {similarity[off]}"
        for side in range(2):
            np.testing.assert_allclose(cell["sigma"].values[side], sigma, rtol=1e-8, err_msg=what)
            for k in cell["k"].values:
                for epsilon in cell["epsilon"].values:
                    want = int((similarity[side, :k] < epsilon).sum())
                    got = cell.isel(side=side).sel(k=k, epsilon=epsilon)
                    if sure[side, :k][~np.isnan(similarity[side, :k])].all():
                        assert float(got["n_intruders"]) == want, (what, side, int(k), float(epsilon))
                    assert float(got["n_intruders_low"]) <= want <= float(got["n_intruders_high"]), what
        for side, name in enumerate(("left", "right")):
            k = 2
            if min(truth.w.shape) > 10 and "deficient" not in what:
                wanted = oracle.principal_angles(truth.w, truth.base, side, k)
                angles = cell["principal_angle"].sel(side=name, k=k).values[:k]
                # arccos loses half the digits of a small angle, in the oracle.
                np.testing.assert_allclose(angles, wanted, atol=1e-6, err_msg=what)


def test_the_size_of_the_change_and_where_it_lies(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    for what, truth, cell in places(truths, tree["intruder_dimensions"].to_dataset(), compared=True):
        if np.array_equal(truth.w, truth.base):
            assert float(cell["delta_norm"]) == 0 and float(cell["unchanged_fraction"]) == 1, what
            assert float(cell["n_intruders"].max()) == 0, what
            continue
        for name, want in oracle.change(truth.w, truth.base, truth.delta).items():
            if name.startswith(("left_", "right_")):
                side, rank = name.split("_")
                got = cell["delta_in_base_subspace"].sel(side=side, subspace_rank=int(rank))
                if "deficient" not in what:  # r reaches into the null space
                    close(float(got), want, f"{what} {name}", 1e-6, 1e-7)
            else:
                close(float(cell[name]), want, f"{what} {name}", 1e-7, 1e-12)
        norm0 = np.linalg.svd(truth.base, compute_uv=False)
        for k in cell["k"].values:
            if k <= len(norm0) and norm0[k - 1] > 1e-9:
                want = np.linalg.norm(truth.delta, 2) / norm0[k - 1]
                close(float(cell["spectral_ratio"].sel(k=k)), want, f"{what} ratio")
        if not truth.factors:
            close(float(cell["unchanged_fraction"]), float((truth.w == truth.base).mean()), f"{what} unchanged", 1e-12)


def test_the_null_is_plausible_and_the_excess_is_its_difference(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    node = tree["intruder_dimensions"].to_dataset()
    checked = 0
    for what, truth, cell in places(truths, node, compared=True):
        if min(truth.w.shape) < 20 or "deficient" in what or np.array_equal(truth.w, truth.base):
            continue
        at = cell.sel(k=10, epsilon=0.7)
        np.testing.assert_allclose(at["excess_intruders"], at["n_intruders"] - at["n_intruders_null"], atol=1e-5)
        ours = oracle.null_counts(truth.base, truth.delta, 0.7, 10, draws=20, seed=1)
        for side in range(2):
            mean, got = ours[:, side].mean(), float(at["n_intruders_null"][side])
            # Two means of 20 draws: five standard errors of their difference, and a count's grain.
            spread = 5 * max(ours[:, side].std(), 0.3) * math.sqrt(2 / 20)
            assert abs(mean - got) <= spread, f"{what} side {side}: null {got}, simulated {mean} ± {spread}"
            checked += 1
    assert checked > 40


def test_matched_norms_cosines_masks_and_phi_compare_the_right_runs(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    node = tree["intruder_dimensions"].to_dataset()
    runs = {"zoo/dense/full": 400, "zoo/dense/lora_r1": 50, "zoo/dense/lora_r4": 300, "zoo/dense/rslora": 100}
    # Another run has a q_proj of another shape: it belongs to no comparison with these.
    for matrix in ("layers.0.mlp.up_proj", "layers.1.deficient", "layers.0.self_attn.q_proj"):
        members = {run: truths[run, step, matrix] for run, step in runs.items() if (run, step, matrix) in truths}
        for run, one in members.items():
            for other, two in members.items():
                what = f"{matrix} {run} ~ {other}"
                cell = node.sel(run=run, other_run=other, matrix=matrix)
                cosine = (one.delta * two.delta).sum() / np.linalg.norm(one.delta) / np.linalg.norm(two.delta)
                close(float(cell["delta_cosine"]), cosine, what, 1e-8, 1e-12)
                a, b = oracle.mask(one.delta), oracle.mask(two.delta)
                close(float(cell["mask_iou"]), len(a & b) / len(a | b), f"{what} mask")
                if one.factors and two.factors:
                    for i in (1, 2, 4):
                        for j in (1, 2, 4):
                            wanted = oracle.phi(one.factors[1].astype(float), two.factors[1].astype(float), i, j)
                            close(float(cell["lora_phi"].sel(phi_i=i, phi_j=j)), wanted, f"{what} φ{i, j}", 1e-7)
                else:
                    assert np.isnan(cell["lora_phi"]).all(), what
        if "deficient" in matrix:
            continue
        w0 = next(iter(members.values())).base
        norms = [float(np.linalg.norm(t.delta)) for t in members.values()]
        targets = {**dict(zip(members, norms, strict=True)), "geometric_mean": float(np.exp(np.log(norms).mean()))}
        for run, one in members.items():
            for target, norm in targets.items():
                cell = node.sel(run=run, matched_to=target, matrix=matrix)
                wanted = oracle.matched_scores(w0, one.delta, norm)
                got = cell["similarity_matched"].values
                np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=f"{run} at {target}")
                close(float(cell["matched_norm"]), norm, f"{target} norm")


def test_chances_are_those_of_random_vectors(report: tuple[Truths, xr.DataTree]) -> None:
    _, tree = report
    node = tree["intruder_dimensions"].to_dataset()
    m, n = LINEAR["layers.0.mlp.up_proj"][2]
    for side, dimension in (("left", m), ("right", n)):
        got = float(node["chance_similarity"].sel(matrix="layers.0.mlp.up_proj", side=side))
        # 20 000 draws of a value with a spread of about .05: standard error 4e-4.
        assert abs(got - oracle.chance_similarity(dimension, min(m, n))) < 2e-3
        for r in (1, 5, 10):
            chance = node["delta_in_base_subspace_chance"].sel(
                matrix="layers.0.mlp.up_proj", side=side, subspace_rank=r
            )
            close(float(chance), r / dimension, f"share's chance {side} {r}")
    close(float(node["mask_iou_chance"]), 0.01 / 1.99, "mask chance")


def test_a_name_with_two_shapes_takes_no_number_from_the_other_run(report: tuple[Truths, xr.DataTree]) -> None:
    _, tree = report
    node = tree["intruder_dimensions"].to_dataset().sel(matrix="layers.0.self_attn.q_proj")
    # 40 × 40 in zoo/dense, 64 × 32 in zoo/half: what has no run among its dimensions cannot be right for both.
    assert np.isnan(node["chance_similarity"]).all() and np.isnan(node["delta_in_base_subspace_chance"]).all()
    assert "64 × 32" in tree["intruder_dimensions"].attrs["notes"]
    for run, step, shape in (("zoo/half/sft", 100, (64, 32)), ("zoo/dense/full", 200, (40, 40))):
        cell = node.sel(run=run, step=step)
        wanted = np.sqrt(cell["window_size"].values / np.array(shape)[:, None])
        np.testing.assert_allclose(cell["window_chance"].values, wanted, rtol=1e-12)
    alone = node["matched_norm"].sel(run="zoo/half/sft")
    assert np.isnan(alone.sel(matched_to="zoo/dense/full"))
    assert float(alone.sel(matched_to="geometric_mean")) == float(alone.sel(matched_to="zoo/half/sft"))


def test_coordinates_and_masks_name_what_was_measured(report: tuple[Truths, xr.DataTree]) -> None:
    truths, tree = report
    for analyzer in ("weight_spectra", "intruder_dimensions"):
        node = tree[analyzer].to_dataset()
        for what, truth, cell in places(truths, node):
            assert truth.kind in ("*", str(cell["kind"].values)), (what, str(cell["kind"].values))
            close(float(cell["layer"]), truth.layer, f"{what} layer")
            if ".head" not in what:  # the mask is of (run, step)
                assert bool(cell["measured"]) == (analyzer == "weight_spectra" or truth.base is not None), what
    table = tree["archive/parameters"].to_dataset().to_dataframe().set_index(["run", "matrix"])
    for (run, step, matrix), truth in truths.items():
        row = table.loc[run, matrix]
        assert (row["rows"], row["columns"]) == truth.w.shape, (run, step, matrix)
        assert truth.orientation in ("*", row["orientation"]), (run, step, matrix)
        assert (row["role"] == "delta") == (truth.factors is not None and ".head" not in matrix), (run, step, matrix)
    spectra = tree["weight_spectra"].to_dataset()
    steps = sorted({step for _, step, _ in truths} | {0})
    assert spectra["step"].values.tolist() == steps
    measured = {key: np.isfinite(float(cell["spectral_norm"])) for key, cell in _cells(spectra)}
    for key, there in measured.items():
        if not key[0].endswith("/base"):
            assert there == (key in truths), key
    kinds = tree["intruder_dimensions"].to_dataset()["base_kind"]
    for run in {run for run, _, _ in truths}:
        assert str(kinds.sel(run=run).values) == ("first_step" if run in FIRST_STEP else "sibling"), run


def _cells(node: xr.Dataset):
    norms = node[["spectral_norm"]]
    for run in norms["run"].values:
        for step in norms["step"].values:
            for matrix in norms["matrix"].values:
                yield (str(run), int(step), str(matrix)), norms.sel(run=run, step=step, matrix=matrix)
