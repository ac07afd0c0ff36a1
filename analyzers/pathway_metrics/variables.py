"""Every variable of the report's node `pathway_metrics`: name, dimensions, meaning, source."""

from __future__ import annotations

from analyzers.contract import Variable

_PAPER = "2506.21551 (Grokking in LLM Pretraining?)"
_OLMOE = "2409.02060 (OLMoE)"
AT = ("run", "step", "probe")
_CUT = (*AT, "threshold")
_GROUPED = (*_CUT, "column")
_ROUTER = (*AT, "router")
_EXPERT = (*_ROUTER, "expert")
_ENTRY = ("vocabulary_entry",)
_CORRELATED = ("run", "probe", "metric")

VARIABLES: tuple[Variable, ...] = (
    Variable("pathway_distance", _CUT, "mean edit distance between two samples' pathways", "tokens", _PAPER),
    Variable("pathway_distance_error", _CUT, "standard error of that mean over drawn pairs; 0 where all were taken"),
    Variable(
        "pathway_distance_normalised",
        _CUT,
        "mean edit distance over the longer pathway's length",
        source=_PAPER,
    ),
    Variable("pathway_length", _CUT, "mean number of tokens of a pathway", "tokens"),
    Variable("distinct_pathways", _CUT, "share of samples that differ from all earlier ones in their pathway"),
    Variable("routing_entropy", AT, "mean entropy of g over ln E, over samples and routers", key=True),
    Variable("routing_entropy_by_router", _ROUTER, "mean entropy of g over ln E, over samples"),
    Variable(
        "grouped_distance_ratio", _GROUPED, "mean distance within a group over that between groups"
    ),
    Variable("grouped_distance_ratio_low", _GROUPED, "2.5 % quantile of the ratio over resampled samples"),
    Variable("grouped_distance_ratio_high", _GROUPED, "97.5 % quantile of the ratio over resampled samples"),
    Variable("grouped_distance_ratio_p", _GROUPED, "share of shuffled labels with a ratio as small"),
    Variable("within_distance", _GROUPED, "mean distance within a group", "tokens"),
    Variable("between_distance", _GROUPED, "mean distance between groups", "tokens"),
    Variable(
        "consistency_cosine", AT, "mean cosine of neighbouring layers' expected router rows", source=_PAPER, key=True
    ),
    Variable("consistency_cosine_by_router", _ROUTER, "that cosine between a router and the next one"),
    Variable(
        "pathway_consistency",
        AT,
        "the paper's C: 0 by construction at two layers, ill-conditioned at three, and of a sign that its text and "
        "table disagree about",
        source=_PAPER,
    ),
    Variable("probe_loss", AT, "mean loss of the probe's samples", "nat", key=True, log=True),
    Variable("memorised_fraction", AT, "share of samples memorised by this step", source=_PAPER),
    Variable("memorisation_epsilon", ("run", "probe"), "mean loss limit ε under which a sample counts as memorised"),
    Variable("expert_load", _EXPERT, "share of a router's choices that went to the expert", source=_OLMOE),
    Variable("load_cv", _ROUTER, "s.d. of the load over its mean", source=_OLMOE),
    Variable("load_entropy", _ROUTER, "entropy of the load over ln E", source=_OLMOE),
    Variable("max_violation", _ROUTER, "MaxVio: greatest load over the mean load, minus 1", source="2408.15664"),
    Variable("dead_experts", _ROUTER, "experts with less than 1 % of the fair share"),
    Variable("z_loss", _ROUTER, "mean logsumexp² of the router's logits", source="2202.08906 (ST-MoE)"),
    Variable(
        "coactivation",
        (*_EXPERT, "other_expert"),
        "N_ij / N_i: of the tokens that chose one expert, the share that chose the other",
        source=_OLMOE,
    ),
    Variable(
        "domain_specialisation",
        (*_EXPERT, "domain"),
        "N_ed / N_d: of a domain's tokens, the share that chose the expert",
        source=_OLMOE,
    ),
    Variable("domain_specialisation_chance", _ROUTER, "k / E: that share for a router that does not look"),
    Variable(
        "vocabulary_specialisation",
        _EXPERT,
        "mean N_xe / N_x over the token ids that chose the expert most often (seen 10 times at least)",
        source=_OLMOE,
    ),
    Variable(
        "vocabulary_specialisation_by_router",
        _ROUTER,
        "mean over those token ids of the greatest N_xe / N_x",
        source=_OLMOE,
    ),
    Variable(
        "vocabulary_specialisation_chance", _ROUTER, "that mean if an id's occurrences chose by the router's load alone"
    ),
    Variable(
        "vocabulary_share",
        _ENTRY,
        "N_xe / N_x at each run's last checkpoint, where not 0: of a token id's occurrences, the share that chose "
        "the expert",
        source=_OLMOE,
    ),
    Variable("vocabulary_run", _ENTRY, "position of the entry's run along `run`"),
    Variable("vocabulary_probe", _ENTRY, "position of the entry's probe along `probe`"),
    Variable("vocabulary_router", _ENTRY, "position of the entry's router along `router`"),
    Variable("vocabulary_expert", _ENTRY, "the entry's expert"),
    Variable("vocabulary_token", _ENTRY, "the entry's token id"),
    Variable("vocabulary_seen", _ENTRY, "N_x: how often the probe shows the token id", "tokens"),
    Variable("vocabulary_frequent", ("run", "probe"), "token ids that the probe shows 10 times at least"),
    Variable("vocabulary_kept", ("run", "probe"), "those of them that the table holds, the most frequent"),
    Variable(
        "router_saturation",
        _ROUTER,
        "share of a token's experts that are those of the run's last checkpoint",
        source=_OLMOE,
    ),
    Variable("router_saturation_chance", _ROUTER, "that share if the two choices were independent"),
    Variable("loss_correlation", _CORRELATED, "Pearson correlation of its changes from step to step with the loss's"),
    Variable("loss_correlation_low", _CORRELATED, "lower end of its 95 % interval; none below 8 effective steps"),
    Variable("loss_correlation_high", _CORRELATED, "upper end of its 95 % interval; none below 8 effective steps"),
    Variable("loss_correlation_n", _CORRELATED, "number of changes"),
    Variable("loss_correlation_n_eff", _CORRELATED, "effective number of changes, n / (1 + 2 Σ ρx ρy)"),
    Variable("loss_correlation_of_levels", _CORRELATED, "correlation of the levels; two drifts have one, too"),
)  # fmt: skip

BY_NAME = {variable.name: variable for variable in VARIABLES}
CORRELATED = (
    "pathway_distance",
    "pathway_distance_normalised",
    "pathway_length",
    "routing_entropy",
    "grouped_distance_ratio",
    "consistency_cosine",
)
"""Metrics that are correlated with the loss, at the threshold nearest 0.7 and the first column."""
