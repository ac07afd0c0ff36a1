"""Recorded routing of many shapes, through the statistics and the derivation, against plain loops over the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.contract import Context, Unit
from analyzers.pathway_metrics import derivation, vocabulary
from analyzers.pathway_metrics.distances import PathwayDistances
from analyzers.pathway_metrics.probe import ProbeColumn
from tests.analyzers.pathway_metrics import oracle
from tests.analyzers.pathway_metrics.running import MATERIAL, routing_of_trace, token_probe


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Two checkpoints' traces of one probe: few or many experts, k up to all of them, samples of very unlike lengths,
    ties, weights of any sum, and choices that came to nothing."""
    experts = draw(st.integers(2, 6))
    k = draw(st.integers(1, experts))
    layers = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, 40), min_size=3, max_size=7))
    kind = draw(st.sampled_from(["softmax", "ties", "any sum", "dropped"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tokens = random.integers(0, 4, sum(lengths))
    traces = [_trace(random, lengths, layers, experts, k, kind, tokens) for _ in range(2)]
    return {"samples": len(lengths), "experts": experts, "traces": traces}


def _trace(
    random: np.random.Generator, lengths: list[int], layers: int, experts: int, k: int, kind: str, tokens: np.ndarray
) -> dict[str, np.ndarray]:
    shape = (sum(lengths), layers, experts)
    logits = random.normal(size=shape).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)
    index = np.argsort(-logits, -1, kind="stable")[..., :k]
    weight = np.take_along_axis(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), index, -1)
    if kind == "ties":
        weight = np.full_like(weight, 1 / k)
    elif kind == "any sum":
        weight = weight * random.uniform(0.1, 30, (*weight.shape[:2], 1)).astype(np.float32)
    elif kind == "dropped":
        weight = np.where(random.random((*weight.shape[:2], 1)) < 0.3, 0, weight)
        weight[0] = 1 / k  # some token has an expert
    return {
        "sample": np.repeat(np.arange(len(lengths)), lengths),
        "index": index,
        "weight": weight,
        "logits": logits,
        "router": random.normal(size=(layers, experts, 5)),
        "token": tokens,
    }


@settings(max_examples=40, deadline=None)
@given(cases())
def test_every_metric_is_the_one_defined(case: dict[str, Any]) -> None:
    samples, experts, (trace, last) = case["samples"], case["experts"], case["traces"]
    classes, domains = [f"c{i % 2}" for i in range(samples)], [f"d{i % 3}" for i in range(samples)]
    columns = {"class": ProbeColumn.of(np.array(classes)), "domain": ProbeColumn.of(np.array(domains))}
    probe = replace(token_probe([1] * samples), tokens=False, columns=columns)
    stored, stored_last = routing_of_trace(trace, probe), routing_of_trace(last, probe)
    found = derivation.of_routing(stored) | derivation.of_last(stored, stored_last)
    expected = oracle.of_routing(trace, samples, experts, domains) | oracle.of_last(trace, last, experts)
    for name, value in expected.items():
        # Weights and logits are kept in float32. The paper's C divides by a cosine that may be near 0.
        tolerance = 1e-2 if name == "pathway_consistency" else 1e-5
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=1e-6, err_msg=name)
    table = vocabulary.shares(stored)
    entries = zip(table.router.tolist(), table.token.tolist(), table.expert.tolist(), strict=True)
    assert dict(zip(entries, table.share, strict=True)) == pytest.approx(oracle.vocabulary_table(trace, experts))
    for threshold in (0.5, 0.7, 0.8):
        distances = PathwayDistances(MATERIAL, threshold=threshold).compute(
            Unit((), statistics={"routing": stored}), Context()
        )
        at_cut = derivation.of_distances(distances, {"class": stored["class_codes"]}, 20)
        for name, value in oracle.of_pathways(trace, samples, experts, threshold, classes).items():
            np.testing.assert_allclose(at_cut[name], value, rtol=1e-6, err_msg=f"{name} at {threshold}")
