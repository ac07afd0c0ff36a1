"""Dense models' neuron pathways, and routing that was recorded elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from analyzers.contract import Context, Unit
from analyzers.errors import Unmeasurable
from analyzers.pathway_metrics.distances import PathwayDistances
from analyzers.pathway_metrics.neurons import Neurons, neuron_pathways, second_maps
from analyzers.pathway_metrics.routers import find_routers
from analyzers.pathway_metrics.routing import Routing
from tests.analyzers.pathway_metrics.running import MATERIAL, routing_of_trace, run, token_probe
from tests.pipeline.models.families import tiny


class Net(torch.nn.Module):
    """One layer whose activations are the inputs' own one-hot codes: which neurons are active is known."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(8, 8)
        self.embed.weight.data = torch.eye(8)
        self.mlp = torch.nn.ModuleDict({"down_proj": torch.nn.Linear(8, 8, bias=False)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.mlp["down_proj"](-self.embed(tokens))


def test_the_most_active_neurons_done_by_hand() -> None:
    probe = token_probe([4, 2])
    inputs = np.array([[1, 1, 2, 3], [5, 0, 7, 7]])  # the second sample has two tokens; the 7s are padding
    result = run(Neurons(MATERIAL), replace(probe, inputs=inputs, columns={}), Net())
    assert result["layers"].tolist() == ["mlp.down_proj"]
    assert result["neurons"][0, 0, :3].tolist() == [1, 2, 3]  # twice; then once each, ties by id
    assert result["neurons"][1, 0, :2].tolist() == [0, 5]
    np.testing.assert_allclose(result["activity"][0, 0, :4], [0.5, 0.25, 0.25, 0])
    assert neuron_pathways(result, 2).tokens.tolist() == [[1, 2], [0, 5]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "t5"])
def test_the_families_second_maps_are_found(family: str) -> None:
    pytest.importorskip("transformers")
    more: dict[str, Any] = {"t5": {"num_layers": 2, "d_kv": 8, "d_model": 32, "d_ff": 48, "num_heads": 4}}
    model = tiny(family, **more.get(family, {}))
    expected = 4 if family == "t5" else model.config.num_hidden_layers
    assert len(second_maps(model, None)) == expected


def test_a_model_without_any_known_mlp_says_how_to_name_its_modules() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(60, 4), torch.nn.Linear(4, 4))
    with pytest.raises(Unmeasurable, match=r"--set pathway_metrics\.modules"):
        run(Neurons(MATERIAL), token_probe([3]), model)
    assert run(Neurons(MATERIAL, modules="1"), token_probe([3]), model)["layers"].tolist() == ["1"]


def trace_of(model: torch.nn.Module, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What a user records: the answers of the routers for every token, sample after sample."""
    seen: dict[str, tuple[Any, ...]] = {}
    handles = [
        r.module.register_forward_hook(lambda m, a, o, n=r.name: seen.update({n: o})) for r in find_routers(model)
    ]
    with torch.no_grad():
        model(torch.from_numpy(inputs))
    for handle in handles:
        handle.remove()
    return {
        "sample": np.repeat(np.arange(len(inputs)), inputs.shape[1]),
        "logits": torch.stack([o[0] for o in seen.values()], 1).numpy(),
        "weight": torch.stack([o[1] for o in seen.values()], 1).numpy(),
        "index": torch.stack([o[2] for o in seen.values()], 1).numpy(),
        "router": torch.stack([r.matrix for r in find_routers(model) if r.matrix is not None]).numpy(),
        "token": inputs.ravel(),
        "names": np.array(list(seen)),
        "loss": np.linspace(0, 1, len(inputs)),
    }


def of_trace(trace: dict[str, np.ndarray] | None, samples: int) -> Any:
    return routing_of_trace(trace, replace(token_probe([1] * samples), tokens=False, columns={}))


def test_a_recorded_trace_gives_what_the_model_gives() -> None:
    pytest.importorskip("transformers")
    model, probe = tiny("olmoe"), token_probe([20] * 6, 12, batch_size=6)
    ran, recorded = run(Routing(MATERIAL), probe, model), of_trace(trace_of(model, probe.inputs), 6)
    for name in (
        "routers",
        "experts",
        "chosen",
        "tokens",
        "selected",
        "together",
        "selection",
        "vocabulary_at",
        "vocabulary_count",
    ):
        np.testing.assert_array_equal(ran[name], recorded[name], err_msg=name)
    for name in ("weight", "z_loss", "gram", "cross"):
        np.testing.assert_allclose(ran[name], recorded[name], rtol=1e-6, err_msg=name)
    assert recorded["loss"].tolist() == pytest.approx(np.linspace(0, 1, 6))


GOOD = {
    "sample": np.array([0, 0, 1]),
    "index": np.array([[[0]], [[1]], [[2]]]),
    "weight": np.ones((3, 1, 1)),
}


def test_the_least_trace_is_enough_for_pathways_and_leaves_the_rest_open() -> None:
    result = of_trace(GOOD, 2)
    assert result["weight"][:, 0].tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert np.isnan(result["z_loss"]).all() and np.isnan(result["gram"]).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (None, "has no trace of this checkpoint"),
        ({"index": None}, "the trace has no index; it has sample, weight"),
        ({"weight": np.ones((3, 2, 1))}, "do not fit"),
        ({"sample": np.array([0, 0, 2])}, "must number the probe's 2 samples from 0"),
        ({"experts": np.array(2)}, "index runs from 0 to 2, but there are 2 experts"),
        ({"logits": np.ones((3, 2, 4))}, "logits have shape"),
        ({"loss": np.ones(3)}, "loss has shape"),
        ({"weight": -np.ones((3, 1, 1))}, "weights must be finite and not negative"),
        ({"weight": np.full((3, 1, 1), np.nan)}, "weights must be finite and not negative"),
        (
            {"index": np.array([[[0, 1]], [[1, 2]], [[2, 2]]]), "weight": np.ones((3, 1, 2))},
            "token 2 chose expert 2 of router 0 twice",
        ),
    ],
)
def test_a_trace_that_does_not_fit_is_said(changed: dict[str, Any] | None, said: str) -> None:
    trace = None
    if changed is not None:
        trace = {name: value for name, value in {**GOOD, **changed}.items() if value is not None}
    with pytest.raises(Unmeasurable, match=said if changed is None else f"the trace of run@7 .*: .*{said}"):
        of_trace(trace, 2)


def test_drawn_pairs_estimate_the_mean_of_all_within_their_standard_error() -> None:
    draw = np.random.default_rng(0)
    stored = {"weight": draw.dirichlet([0.5] * 6, size=(150, 4)).astype(np.float32)}
    unit = Unit((), statistics={"routing": stored})
    exact = PathwayDistances(MATERIAL).compute(unit, Context())
    drawn = PathwayDistances(MATERIAL, exact_samples=100, pairs=4000).compute(unit, Context(seed=3))
    assert len(exact["distance"]) == 150 * 149 // 2
    assert (drawn["left"] != drawn["right"]).all()
    error = drawn["distance"].std() / np.sqrt(4000)
    assert abs(drawn["distance"].mean() - exact["distance"].mean()) < 4 * error  # missed once in 16 000 seeds


def test_one_sample_has_no_distance() -> None:
    with pytest.raises(Unmeasurable, match="1 sample: a distance needs two"):
        PathwayDistances(MATERIAL).compute(Unit((), statistics={"routing": {"weight": np.ones((1, 1, 2))}}), Context())
