"""Every variable of the report's node `intrinsic_dimension`: name, dimensions, meaning, source."""

from __future__ import annotations

from analyzers.contract import Variable
from analyzers.intrinsic_dimension.doubts import MEANINGS

_FLAGS = "; ".join(f"{code}: {meaning}" for code, meaning in MEANINGS.items())
_LI = "1804.08838 (Li et al. 2018)"
_SAID = "2012.13255 (Aghajanyan et al. 2020)"
_CELL = ("run", "step", "task", "method")
_CROSSING = (*_CELL, "threshold", "level")
_CURVE = (*_CELL, "d")
_LAYERS = ("run", "step", "task", "layer")
_PATH = ("run", "group")
_PATH_STEPS = ("run", "step", "group")

LANDSCAPE: tuple[Variable, ...] = (
    Variable(
        "d_int",
        _CROSSING,
        "least d whose mean score reaches the threshold; NaN where it is censored: see d_int_limit",
        source=f"{_LI}; {_SAID}",
        log=True,
    ),
    Variable(
        "d_int_low",
        _CROSSING,
        "lower end of its 95 % bootstrap interval over seeds and tunings; it held the truth in 95 % of whole searches "
        "on the digits (91 to 98 % by checkpoint); 0: open",
        log=True,
    ),
    Variable("d_int_high", _CROSSING, "upper end of its 95 % bootstrap interval; inf: open", log=True),
    Variable("censored", _CROSSING, "1: above d_int_limit, -1: at or below it, 0: d_int is known; NaN: not measured"),
    Variable("d_int_limit", _CROSSING, "where censored: the greatest (1) or least (-1) d that was tried", log=True),
    Variable("d_int_flag", _CROSSING, f"reasons for doubt, the sum of: {_FLAGS}"),
    Variable("threshold_score", _CROSSING, "the score that is to be reached"),
    Variable(
        "budget_changes", _CROSSING, "1 where a doubled budget moves d_int out of its interval or bracket; NaN: unasked"
    ),
    Variable("d_int_doubled", _CROSSING, "d_int at the doubled budget; NaN: unasked, or outside its bracket", log=True),
    Variable("score", _CURVE, "mean score over fresh seeds after training in d dimensions", source=_LI),
    Variable("score_low", _CURVE, "lower end of its 95 % bootstrap interval over seeds and tunings"),
    Variable("score_high", _CURVE, "upper end of its 95 % bootstrap interval over seeds and tunings"),
    Variable("tune_score", _CURVE, "score on the tuning split at the best rate and stop: what the search went by"),
    Variable("learning_rate", _CURVE, "chosen rate: the step of one parameter (root mean square)", log=True),
    Variable("n_seeds", _CURVE, "fresh seeds behind the score"),
    Variable("baseline_score", _CELL, "mean score of full training from the checkpoint, over fresh seeds"),
    Variable("baseline_low", _CELL, "lower end of its 95 % bootstrap interval"),
    Variable("baseline_high", _CELL, "upper end of its 95 % bootstrap interval"),
    Variable("initial_score", _CELL, "score before any training"),
    Variable("chance_score", _CELL, "accuracy of always naming the commonest class"),
    Variable("n_trained", _CELL, "D: trained parameters"),
    Variable("n_fresh", _CELL, "those of them that the checkpoint does not hold (a fresh head)"),
    Variable("n_trials", _CELL, "trained models, tuning included, and the full training that all methods share"),
    Variable("n_diverged", _CELL, "those that diverged"),
    Variable("diverged_lr", _CELL, "least rate (step of one parameter) at which one diverged", log=True),
)

REPRESENTATION: tuple[Variable, ...] = (
    Variable("two_nn", _LAYERS, "TwoNN: (N-1)/Σ ln(r2/r1)", source="Facco et al. 2017"),
    Variable("mle", _LAYERS, "Levina–Bickel, k = 20, harmonic mean", source="Levina & Bickel 2004"),
    Variable("gride", (*_LAYERS, "scale"), "GRIDE at neighbours n1 = scale, n2 = 2 scale", source="Denti et al. 2022"),
    Variable("participation_ratio", _LAYERS, "(Σλ)²/Σλ² of the covariance of the activations"),
    Variable("n_duplicates", _LAYERS, "activations equal but for rounding, dropped before estimating"),
    Variable("tied_share", _LAYERS, "share of the points whose two nearest neighbours are equally far"),
    Variable("n_points", _LAYERS, "distinct activations behind the estimates"),
)

TRAJECTORY: tuple[Variable, ...] = (
    Variable("explained_variance", (*_PATH, "component"), "share of the path's variance along each component"),
    Variable("explained_variance_null", (*_PATH, "component"), "that share for a random walk over the same steps"),
    Variable(
        "explained_variance_null_low",
        (*_PATH, "component"),
        "lower end of the 95 % interval of that share, for a walk whose moves have the run's move_dimension",
    ),
    Variable("explained_variance_null_high", (*_PATH, "component"), "its upper end"),
    Variable("move_dimension", _PATH, "effective dimension of the moves from step to step, 1 / mean cos² between two"),
    Variable("path_dimension", _PATH, "effective dimension of the path, (Σλ)²/Σλ²"),
    Variable("path_dimension_null", _PATH, "that of a random walk over the same steps"),
    Variable("path", (*_PATH_STEPS, "axis"), "the path in its first principal components"),
    Variable("step_cosine", _PATH_STEPS, "cosine of the move from the step before with the move before that"),
    Variable("distance_from_start", _PATH_STEPS, "‖w − w_first‖", log=True),
    Variable("relative_distance", _PATH_STEPS, "‖w − w_first‖ / ‖w_first‖", log=True),
    Variable("group_size", _PATH, "parameters in the group"),
    Variable("joint_plane", ("run",), "number of the joint basis that the run's coordinates are in; NaN: none"),
    Variable("joint_path", ("run", "step", "axis"), "the path in the first principal components of all runs together"),
    Variable(
        "joint_explained_variance",
        ("run", "component"),
        "share of the variance of all runs' checkpoints along each joint component",
    ),
    Variable(
        "joint_share_of_path", ("run", "axis"), "share of the variance of the run's own path along each joint component"
    ),
)

VARIABLES = (*LANDSCAPE, *REPRESENTATION, *TRAJECTORY)
BY_NAME = {variable.name: variable for variable in VARIABLES}
