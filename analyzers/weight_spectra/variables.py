"""The variables of the report's node `weight_spectra`; their formulas and pitfalls are in docs/weight-spectra.md."""

from __future__ import annotations

from analyzers.contract import Variable

_RSM = ("run", "step", "matrix")
_BULK = (*_RSM, "bulk_scale")
_CSN = "Clauset, Shalizi & Newman 2009; Martin & Mahoney 2021"
_MMP = "Martin, Peng & Mahoney 2021"
_MP = "Johnstone 2001; Ma 2012; Gavish & Donoho 2014"
_GGD = "Do & Vetterli 2002; arXiv:2506.00486"
_WELORE = "arXiv:2407.11239"


def _of(
    name: str,
    long_name: str,
    source: str = "",
    key: bool = False,
    log: bool = False,
    units: str = "1",
    counted_by: str = "",
) -> Variable:
    return Variable(name, _RSM, long_name, units, source, key, log, counted_by)


FROM_SIGMA = (
    _of("spectral_norm", "spectral norm σ1", "textbook", key=True, log=True, units="weight"),
    _of("frobenius_norm", "Frobenius norm √Σσ²", "textbook", log=True, units="weight"),
    _of("nuclear_norm", "nuclear norm Σσ", "textbook", log=True, units="weight"),
    _of("stable_rank", "stable rank Σσ²/σ1²", "Rudelson & Vershynin 2007", key=True),
    _of("effective_rank", "effective rank exp H(σ/Σσ)", "Roy & Vetterli 2007", key=True),
    _of("spectral_entropy", "spectral entropy of σ²/Σσ² over ln p", "WeightWatcher", key=True),
    _of("participation_ratio", "participation ratio (Σσ²)²/Σσ⁴", "textbook"),
    Variable("energy_rank", (*_RSM, "energy"), "least rank that holds a share of Σσ²", "1", "SVFit (share 0.99)"),
    _of("condition_number", "condition number σ1/σp", "textbook", log=True),
    _of("condition_flag", "condition number: 0 plain, 1 inexact (Gram, above 1e4), 2 lower bound (rank-deficient)"),
    _of(
        "hill_alpha",
        "Hill estimate of α from the middle of the spectrum above rounding",
        "TempBalance (Zhou et al. 2023)",
    ),
    Variable("sigma_quantile", (*_RSM, "quantile"), "quantiles of σ", "weight", log=True),
    _of("welore_rank_reduction", "share of σ below WeLore's common threshold", _WELORE, counted_by="welore_matrices"),
    _of("welore_class", "WeLore class: 1 low-rank (LRC), 0 not (N-LRC)", _WELORE, counted_by="welore_matrices"),
    Variable(
        "welore_threshold",
        ("run", "step"),
        "WeLore's threshold on σ, min–max scaled",
        "1",
        _WELORE,
        counted_by="welore_matrices",
    ),
    Variable("welore_matrices", ("run", "step"), "matrices that WeLore's threshold is common to"),
)

FROM_FIT = (
    _of("alpha", "power-law exponent α of the eigenvalues", _CSN, key=True),
    _of("xmin", "least eigenvalue of the power-law tail", _CSN, log=True, units="weight²"),
    _of("ks_distance", "one-sided Kolmogorov–Smirnov distance of the power-law tail", _CSN),
    _of("n_tail", "number of eigenvalues in the power-law tail", _CSN),
    _of(
        "alpha_flag",
        "power-law fit: 0 plain, 1 fewer than 50 values in the tail, 2 no fit: too few values or no spread",
    ),
    _of("alpha_sigma_iid", "(α−1)/√n_tail: the spread of α if eigenvalues were independent, which they are not", _CSN),
    _of("alpha_hat", "α log10 λ1 (WeightWatcher's alpha_weighted)", _MMP, key=True),
    _of("log_alpha_norm", "log10 Σ λ^α", _MMP),
)

FROM_ENTRIES = (
    _of("ggd_shape", "shape β of the entries' generalized Gaussian (2 Gaussian, 1 Laplacian)", _GGD),
    _of("ggd_scale", "scale of the entries' generalized Gaussian", _GGD, units="weight"),
    _of("noise_floor", "spectral norm of the rounding by storage", "rounding as independent noise", units="weight"),
    _of("mantissa_bits", "fraction bits in use by the entries"),
    _of("entry_mean", "mean entry", "textbook", units="weight"),
    _of("entry_std", "standard deviation of the entries", "textbook", log=True, units="weight"),
    _of("entry_kurtosis", "kurtosis of the entries (3 for a Gaussian)", "textbook"),
    _of("zero_fraction", "share of entries that are exactly zero"),
)

FROM_BULK = (
    Variable("mp_scale", _BULK, "standard deviation s of the noise under the bulk", "weight", _MP),
    Variable(
        "mp_edge", _BULK, "eigenvalue that noise alone exceeds in 5 % of matrices, s being estimated", "weight²", _MP
    ),
    Variable("n_spikes", _BULK, "eigenvalues above mp_edge; means nothing where mp_ks rejects the bulk", "1", _MP),
    Variable("mp_softrank", _BULK, "upper bulk edge λ+ over λ1", "1", "Martin & Mahoney 2021"),
    Variable("mp_ks", _BULK, "Kolmogorov–Smirnov distance of the bulk to the Marchenko–Pastur law", "1", _MP),
    Variable("mp_ks_p", _BULK, "p of mp_ks among Gaussian matrices of the shape, s re-fitted", "1", _MP),
    Variable(
        "mp_ks_p_adjusted",
        _BULK,
        "mp_ks_p corrected over the matrices of the checkpoint",
        "1",
        "Benjamini & Yekutieli 2001",
        counted_by="mp_ks_p_tested",
    ),
    Variable("mp_ks_p_tested", ("run", "step", "bulk_scale"), "matrices over which mp_ks_p is corrected"),
)

ON_REQUEST = (
    _of("alpha_null_percentile", "percentile of α among Gaussian matrices of the shape", "simulation", units="percent"),
    _of("alpha_p_value", "one-sided p: a Gaussian matrix of the shape has as small an α", "simulation"),
    _of(
        "alpha_p_value_adjusted",
        "alpha_p_value corrected over the matrices of the checkpoint",
        "Benjamini & Yekutieli 2001",
        counted_by="alpha_p_value_tested",
    ),
    Variable("alpha_p_value_tested", ("run", "step"), "matrices over which alpha_p_value is corrected"),
    Variable(
        "alpha_interval",
        (*_RSM, "bound"),
        "scatter of α among simulated matrices like this one (2.5 and 97.5 %); holds their median α in 82–100 %",
        "1",
        "simulation",
    ),
    _of("farms_alpha", "α of all windows of one aspect ratio, one fit", "FARMS, arXiv:2506.06280"),
)

_MODE = ("run", "matrix", "mode")
_OVERLAP = "vector overlap; sigmoids: Saxe, McClelland & Ganguli 2013"
FROM_MODES = (
    Variable("mode_sigma", (*_RSM, "mode"), "σ of one mode followed by its vectors", "weight", _OVERLAP, log=True),
    Variable("mode_birth", _MODE, "step at which the mode is first among the leading ones", "1", _OVERLAP),
    Variable("mode_death", _MODE, "first step at which it no longer is, for good", "1", _OVERLAP),
    Variable("spike_birth", (*_MODE, "bulk_scale"), "first step at which the mode's σ² is over 1.1 mp_edge", "1", _MP),
    Variable(
        "spike_death", (*_MODE, "bulk_scale"), "step at which it falls below mp_edge and is no spike again", "1", _MP
    ),
)
"""Of runs of two steps and more."""

VARIABLES = FROM_SIGMA + FROM_FIT + FROM_ENTRIES + FROM_BULK + FROM_MODES + ON_REQUEST
