"""Every variable of the report's node `intruder_dimensions`: name, dimensions, meaning, source."""

from __future__ import annotations

from analyzers.contract import Variable

_INTRUDERS = "2410.21228 (Shuttleworth et al. 2024)"
_LORA = "2106.09685 (Hu et al. 2021), §7.2"
_COUNT = ("run", "step", "matrix", "side", "k", "epsilon")
_TOTAL = ("run", "step", "side", "k", "epsilon")
_SCORE = ("run", "step", "matrix", "side", "rank")
_SCALAR = ("run", "step", "matrix")
_PAIRS = ("run", "other_run", "matrix")
_BIRTH = ("run", "matrix", "side", "rank", "k", "epsilon")
_P = ("run", "direction")
_MATCHED_NULL = ("run", "norm", "matrix", "side", "k", "epsilon")
_MATCHED_TOTAL = ("run", "norm", "side", "k", "epsilon")
_TESTED, _MATCHED_TESTED = "total_intruders_tested", "total_matched_tested"
_P_END = "{} end of the 95 % Monte-Carlo interval of p (Clopper-Pearson)"
_ENDS = (("", "mean"), ("_low", "lower end of the 95 % interval"), ("_high", "upper end of the 95 % interval"))


def _matched(ending: str, norm: str) -> tuple[Variable, ...]:
    return (
        Variable(
            f"n_intruders_matched{ending}",
            ("run", "matched_to", "matrix", "side", "k", "epsilon"),
            f"count at the last step with Δ rescaled to another run's {norm}",
        ),
        Variable(
            f"similarity_matched{ending}",
            ("run", "matched_to", "matrix", "side", "rank"),
            f"score with Δ rescaled to another run's {norm}",
        ),
        Variable(f"matched{ending}_norm", ("run", "matched_to", "matrix"), f"{norm} that the run's Δ is rescaled to"),
    )


VARIABLES: tuple[Variable, ...] = (
    Variable("similarity", _SCORE, "max over all base vectors of |cos(u_j, u⁰_i)|", source=_INTRUDERS, key=True),
    Variable("sigma", _SCORE, "singular value of the tuned matrix", source=_INTRUDERS),
    Variable("score_error", _SCORE, "bound of the numerical error of similarity"),
    Variable(
        "storage_uncertainty", _SCORE, "what rounding of the stored entries can have moved similarity by (4 s.d.)"
    ),
    Variable(
        "similarity_flag", _SCORE, "1: arbitrary, since base vectors of equal σ⁰ or an undetermined u_j decide it"
    ),
    Variable("best_match", _SCORE, "0-based index of the base vector of greatest cosine"),
    Variable("sigma_match", _SCORE, "singular value of that base vector"),
    Variable("similarity_window", _SCORE, "norm of u_j's part among base vectors with σ⁰ within 2 % of the match"),
    Variable("window_size", _SCORE, "number of base vectors in the window"),
    Variable("window_chance", _SCORE, "√(window_size / d): the windowed score of a random vector of R^d"),
    Variable("chance_similarity", ("matrix", "side"), "expected score of a random vector, exact"),
    Variable("n_intruders", _COUNT, "top-k singular vectors with similarity < ε", source=_INTRUDERS, key=True),
    Variable("n_intruders_low", _COUNT, "those below ε beyond their error and storage uncertainty"),
    Variable("n_intruders_high", _COUNT, "those that may be below ε within their error and storage uncertainty"),
    Variable(
        "n_intruders_null",
        _COUNT,
        "mean count for Δ's singular values with Haar-random vectors, over all draws of that step",
        key=True,
    ),
    Variable("n_intruders_null_low", _COUNT, "2.5 % quantile of the null count over its draws, a draw itself"),
    Variable("n_intruders_null_high", _COUNT, "97.5 % quantile of the null count over its draws, a draw itself"),
    Variable("excess_intruders", _COUNT, "count minus the null's mean: the effect size", key=True),
    Variable(
        "total_intruders",
        _TOTAL,
        "count summed over the matrices of the run",
        source=_INTRUDERS,
        counted_by="total_intruders_matrices",
    ),
    Variable("total_intruders_matrices", ("run", "step"), "matrices that have a count"),
    Variable(
        "total_intruders_null",
        _TOTAL,
        "mean over draws of the null counts summed over matrices",
        counted_by="total_intruders_null_matrices",
    ),
    Variable("total_intruders_null_matrices", ("run", "step"), "matrices that have a null"),
    Variable(
        "total_intruders_null_low",
        _TOTAL,
        "lower end of the null's sum: of its 95 % prediction interval and its draws' 2.5 % quantile the lower",
        counted_by="total_intruders_null_matrices",
    ),
    Variable(
        "total_intruders_null_high",
        _TOTAL,
        "upper end of the null's sum: of its 95 % prediction interval and its draws' 97.5 % quantile the higher",
        counted_by="total_intruders_null_matrices",
    ),
    Variable(
        "total_intruders_p",
        _P,
        "chance of a sweep this extreme over sides, k and ε under the null (max-T), at the run's last step",
        source="Westfall & Young 1993; Besag & Clifford 1991",
        counted_by=_TESTED,
    ),
    Variable("total_intruders_p_low", _P, _P_END.format("lower"), counted_by=_TESTED),
    Variable("total_intruders_p_high", _P, _P_END.format("upper"), counted_by=_TESTED),
    Variable(
        "total_intruders_p_sure",
        _P,
        "p with all scores that rounding leaves undetermined counted against the direction",
        counted_by=_TESTED,
    ),
    Variable(
        "total_intruders_p_corrected",
        _P,
        "p corrected over the runs on joint axes and both directions (Holm)",
        counted_by=_TESTED,
    ),
    Variable("total_intruders_draws", ("run",), "draws of the null behind p"),
    Variable(_TESTED, ("run",), "matrices behind p: those with a score and a null"),
    *_matched("", "‖Δ‖_F"),
    *_matched("_spectral", "‖Δ‖₂"),
    *(
        Variable(f"n_intruders_matched_null{end}", _MATCHED_NULL, f"{what} of the null count at the runs' common norm")
        for end, what in _ENDS
    ),
    Variable(
        "total_matched",
        _MATCHED_TOTAL,
        "count at the runs' common norm, over the matrices that have its null",
        counted_by=_MATCHED_TESTED,
    ),
    *(
        Variable(
            f"total_matched_null{end}",
            _MATCHED_TOTAL,
            f"{what} of the null's sum at the runs' common norm",
            counted_by=_MATCHED_TESTED,
        )
        for end, what in _ENDS
    ),
    Variable(_MATCHED_TESTED, ("run", "norm"), "matrices behind the sums at the runs' common norm"),
    Variable(
        "total_matched_p",
        ("run", "norm", "direction"),
        "p of the sweep at the common norm (max-T), from `draws` draws and not corrected: no verdict",
        counted_by=_MATCHED_TESTED,
    ),
    Variable("birth_step", _BIRTH, "step from which the intruder of this rank at the last step is one"),
    Variable("birth_after", _BIRTH, "step before it: the birth lies in (birth_after, birth_step]"),
    Variable("spectral_ratio", (*_SCALAR, "k"), "‖Δ‖₂ / σ_k(W0)", key=True),
    Variable(
        "principal_angle",
        ("run", "step", "matrix", "side", "k", "rank"),
        "principal angles between the top-k singular subspaces of W and W0",
        "rad",
    ),
    Variable(
        "principal_angle_flag",
        ("run", "step", "matrix", "k"),
        "1: the top-k subspace of W or W0 is arbitrary, since σ_k − σ_{k+1} is within rounding",
    ),
    Variable("base_kind", ("run",), "how the base was chosen; 'first_step' is merely the run's own first save"),
    Variable("relative_change", _SCALAR, "‖Δ‖_F / ‖W0‖_F", key=True, log=True),
    Variable("cosine_to_base", _SCALAR, "cosine of (vec W, vec W0)", key=True),
    Variable("delta_norm", _SCALAR, "‖Δ‖_F", log=True),
    Variable("delta_spectral_norm", _SCALAR, "‖Δ‖₂", log=True),
    Variable(
        "delta_effective_rank",
        _SCALAR,
        "effective rank of Δ, exp(entropy of σ/Σσ)",
        source="Roy & Vetterli 2007",
        key=True,
    ),
    Variable("delta_stable_rank", _SCALAR, "stable rank of Δ, Σσ²/σ1²", source="Rudelson & Vershynin 2007", key=True),
    Variable("delta_noise_floor", _SCALAR, "spectral norm that rounding alone gives Δ, √(s_E² + s_E0²)(√m + √n)"),
    Variable("delta_effective_rank_above_noise", _SCALAR, "effective rank of Δ from its σ above the noise floor"),
    Variable("delta_stable_rank_above_noise", _SCALAR, "stable rank of Δ from its σ above the noise floor"),
    Variable("delta_rank_above_noise", _SCALAR, "number of σ of Δ above the noise floor"),
    Variable(
        "delta_in_base_subspace",
        ("run", "step", "matrix", "side", "subspace_rank"),
        "share of ‖Δ‖² inside W0's leading singular subspace",
    ),
    Variable(
        "delta_in_base_subspace_flag",
        ("run", "step", "matrix", "subspace_rank"),
        "1: W0's top-r subspace is arbitrary, since σ_r − σ_{r+1} is within rounding",
    ),
    Variable("delta_in_base_subspace_chance", ("matrix", "side", "subspace_rank"), "that share for a random Δ, r/d"),
    Variable("unchanged_fraction", _SCALAR, "share of entries equal bit for bit to the base's", key=True),
    Variable("changed_fraction_above_noise", _SCALAR, "share of entries with |Δ| > (ulp(w) + ulp(w0))/2"),
    Variable("sign_flip_fraction", _SCALAR, "share of entries whose sign changed"),
    Variable(
        "top_entry_share", _SCALAR, "share of ‖Δ‖² in the top_fraction of entries of greatest |Δ|", source="2302.06600"
    ),
    Variable("top_entry_share_above_noise", _SCALAR, "the part of it in entries that changed by more than rounding"),
    Variable("delta_cosine", _PAIRS, "cosine of two runs' Δ at their last steps (task vectors)", key=True),
    Variable("mask_iou", _PAIRS, "IoU of two runs' masks of the entries of greatest |Δ|", source="2302.06600"),
    Variable("mask_iou_above_noise", _PAIRS, "the same of the masked entries that changed by more than rounding"),
    Variable("mask_iou_chance", (), "s/(2 − s): that of random masks of top_fraction s"),
    Variable(
        "lora_phi",
        (*_PAIRS, "phi_i", "phi_j"),
        "φ(i, j) = ‖U_A[:, :i]ᵀ U_B[:, :j]‖² / min(i, j) of two adapters' A",
        source=_LORA,
    ),
    Variable("lora_phi_chance", ("matrix", "phi_i", "phi_j"), "φ of random subspaces, max(i, j)/d", source=_LORA),
)

BY_NAME = {variable.name: variable for variable in VARIABLES}
DELTA_SIGMA = Variable("delta_sigma", ("step", "matrix", "mode"), "singular values of Δ, descending", log=True)
