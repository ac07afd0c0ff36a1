"""Pathways on a CUDA device give what the CPU gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyzers.contract import Context, Observation, Unit
from analyzers.models import WholeCheckpoint
from analyzers.pathway_metrics import edit_distance
from analyzers.pathway_metrics.pathways import pathways_of
from analyzers.pathway_metrics.routing import Routing
from data_catalog.recipes.mixture import MixtureShape, MixtureTransformer
from tests.analyzers.pathway_metrics.running import MATERIAL, InMemory, token_probe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_distances_are_the_same_on_the_gpu() -> None:
    weight = np.random.default_rng(0).dirichlet([0.3] * 16, size=(200, 10))
    pathways = pathways_of(weight, 0.8)
    expected = edit_distance.all_pairs(pathways)
    np.testing.assert_array_equal(edit_distance.all_pairs(pathways, torch.device("cuda")), expected)


def test_routing_is_the_same_on_the_gpu() -> None:
    shape = MixtureShape(12, 5, width=8, heads=2, layers=3, hidden=6, norm=False, experts=4)
    probe = token_probe([5] * 6, 12)
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = MixtureTransformer(shape).eval()
        checkpoint = WholeCheckpoint("run", 0, "key", {}, (), lambda name: torch.zeros(0))
        unit = Unit((Observation("run", 0, None, None, checkpoint=checkpoint),))
        context = Context(device=torch.device(device), models=InMemory(probe, model))
        results.append(Routing(MATERIAL).compute(unit, context))
    np.testing.assert_array_equal(results[0]["selected"], results[1]["selected"])
    np.testing.assert_allclose(results[0]["weight"], results[1]["weight"], atol=1e-5)
