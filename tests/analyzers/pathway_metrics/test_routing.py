"""What is recorded is what the forward pass did: for every family, shown by disturbing experts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from analyzers.errors import Unmeasurable
from analyzers.pathway_metrics.probe import Probe
from analyzers.pathway_metrics.routers import find_routers
from analyzers.pathway_metrics.routing import Routing
from analyzers.pathway_metrics.vocabulary import shares
from data_catalog.recipes.mixture import MixtureShape, MixtureTransformer
from pipeline.models.build import build_model
from tests.analyzers.pathway_metrics.running import MATERIAL, run, token_probe
from tests.pipeline.models.families import FAMILIES, checkpoint_of, tiny

pytest.importorskip("transformers", reason="transformers (extra hf) holds the families")

ROUTING = Routing(MATERIAL)


def output_of(model: Any, tokens: np.ndarray) -> torch.Tensor:
    """Logits for one batch without padding."""
    ids = torch.from_numpy(tokens)
    more = {}
    if model.config.is_encoder_decoder:
        more = {"decoder_input_ids": torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)}
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **more).logits


def disturb(model: torch.nn.Module, router: str, expert: int) -> None:
    """Adds 1 to every weight of one expert behind a router."""
    parent = model.get_submodule(router.rpartition(".")[0])
    touched = 0
    with torch.no_grad():
        for name, parameter in parent.named_parameters():
            if re.search(rf"expert_{expert}\.", name):
                parameter += 1
                touched += 1
            elif parameter.ndim == 3:
                parameter[expert] += 1
                touched += 1
    assert touched >= 1, router


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_that_were_not_recorded_do_not_matter_and_those_recorded_do(family: str) -> None:
    model = tiny(family)
    if family == "deepseek_v3":  # its selection is by a biased score: weights alone would tell another one
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.linspace(-2, 2, len(buffer)))
    probe = token_probe([3])
    result = run(ROUTING, probe, model)
    before = output_of(model, probe.inputs)
    for at, router in enumerate(result["routers"]):
        used = result["selected"][:, at].sum(0) > 0
        assert 0 < used.sum() < result["experts"][at]
        for expert in np.flatnonzero(~used):
            untouched = {k: v.clone() for k, v in model.state_dict().items()}
            disturb(model, str(router), int(expert))
            assert torch.equal(output_of(model, probe.inputs), before), (router, expert)
            model.load_state_dict(untouched)
        for expert in np.flatnonzero(used):
            untouched = {k: v.clone() for k, v in model.state_dict().items()}
            disturb(model, str(router), int(expert))
            assert not torch.equal(output_of(model, probe.inputs), before), (router, expert)
            model.load_state_dict(untouched)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_never_counts(family: str) -> None:
    """Samples together, padded to the longest, and each alone without padding: the same numbers."""
    model = tiny(family)
    together = run(ROUTING, token_probe([2, 9, 5, 7], batch_size=4), model)
    alone = run(ROUTING, token_probe([2, 9, 5, 7], batch_size=1), model)
    np.testing.assert_array_equal(together["selected"], alone["selected"])
    np.testing.assert_array_equal(together["selection"], alone["selection"])
    np.testing.assert_array_equal(together["together"], alone["together"])
    # Masked attention sums in another order: float32 rounding, twice through the layers.
    np.testing.assert_allclose(together["weight"], alone["weight"], atol=1e-5)
    np.testing.assert_allclose(together["loss"], alone["loss"], rtol=1e-4)
    np.testing.assert_allclose(together["z_loss"], alone["z_loss"], rtol=1e-4)
    assert (together["tokens"].T == [2, 9, 5, 7]).all()
    k = together["chosen"]
    np.testing.assert_array_equal(together["selected"].sum(2), together["tokens"] * k)


def test_the_recorded_sums_are_those_of_the_tokens() -> None:
    """Against a plain loop over what the routers return."""
    model = tiny("olmoe")
    probe = token_probe([6, 4], batch_size=1)
    seen: list[tuple[Any, ...]] = []
    handles = [
        r.module.register_forward_hook(lambda m, a, o, n=r.name: seen.append((n, *o))) for r in find_routers(model)
    ]
    result = run(ROUTING, probe, model)
    for handle in handles:
        handle.remove()
    order = [1, 0]  # batches go from short to long
    names = result["routers"].tolist()
    weight, pairs, squares = np.zeros((2, 2, 8)), np.zeros((2, 8, 8)), np.zeros((2,))
    for call, (name, logits, weights, index) in enumerate(seen):
        sample, layer = order[call // 2], names.index(name)
        for t in range(len(index)):
            squares[layer] += float(torch.logsumexp(logits[t], 0)) ** 2
            for j, expert in enumerate(index[t].tolist()):
                weight[sample, layer, expert] += float(weights[t, j]) / len(index)
                for other in index[t].tolist():
                    pairs[layer, expert, other] += 1
    np.testing.assert_allclose(result["weight"], weight, rtol=1e-6)
    np.testing.assert_array_equal(result["together"], pairs)
    np.testing.assert_allclose(result["z_loss"], squares / 10, rtol=1e-6)
    matrices = [p.detach().double().numpy() for n, p in model.named_parameters() if n.endswith("mlp.gate.weight")]
    np.testing.assert_allclose(result["gram"][1], matrices[1] @ matrices[1].T)
    np.testing.assert_allclose(result["cross"][0], matrices[0] @ matrices[1].T)


def test_the_loss_is_that_of_the_model() -> None:
    model = tiny("olmoe")
    probe = token_probe([6, 6])
    ids = torch.from_numpy(probe.inputs)
    with torch.no_grad():
        expected = [float(model(input_ids=row[None], labels=row[None]).loss) for row in ids]
    np.testing.assert_allclose(run(ROUTING, probe, model)["loss"], expected, rtol=1e-5)


def test_vocabulary_counts_are_of_frequent_tokens_only() -> None:
    model = tiny("olmoe")
    probe = token_probe([30] * 8, 20)
    result = run(ROUTING, probe, model)
    ids, seen = np.unique(probe.inputs, return_counts=True)
    np.testing.assert_array_equal(result["vocabulary"], ids[seen >= 10])
    np.testing.assert_array_equal(result["vocabulary_seen"], seen[seen >= 10])
    table = shares(result)
    per_id = np.bincount(np.searchsorted(result["vocabulary"], table.token), table.share)
    np.testing.assert_allclose(per_id, 2 * 2)  # two routers, two experts for each occurrence


def test_a_switch_token_beyond_the_capacity_has_no_expert() -> None:
    model = tiny("switch_transformers", expert_capacity=1)
    probe = token_probe([12, 12])
    result = run(ROUTING, probe, model)
    assert (result["selected"].sum((0, 2)) < 24).all()
    assert (result["tokens"] == 12).all()
    picked = [np.bincount(row[row >= 0], minlength=8) for row in result["selection"][:, :, 0].T]
    np.testing.assert_array_equal(picked, result["selected"].sum(0))  # the dropped tokens chose none
    assert result["selected"].max() == 1  # one token of each sample, for each expert


def test_a_model_of_ones_own_needs_no_transformers() -> None:
    model = MixtureTransformer(MixtureShape(12, 5, width=8, heads=2, layers=3, hidden=6, norm=False, experts=4)).eval()
    probe = token_probe([5] * 6, 12, labels=np.arange(6))
    result = run(ROUTING, probe, model)
    assert result["routers"].tolist() == [f"layers.{i}.mlp.gate" for i in range(3)]
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(probe.inputs))[:, -1], torch.arange(6), reduction="none"
        )
    np.testing.assert_allclose(result["loss"], expected.numpy(), rtol=1e-5)


class Patches(torch.nn.Module):
    """Cuts each image into four tokens itself, and names its router."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = MixtureTransformer(MixtureShape(4, 4, width=6, heads=2, experts=3)).layers[0].mlp.gate
        self.routers = {"patches": self.gate}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits, _, _ = self.gate(images.reshape(-1, 6).float())
        return logits.view(len(images), 4, 3).mean(1)


def test_arrays_that_the_model_cuts_into_tokens_itself() -> None:
    draw = np.random.default_rng(0)
    probe = Probe("images", draw.standard_normal((5, 4, 6)), np.ones(5, dtype=np.int64), tokens=False, batch_size=2)
    result = run(ROUTING, probe, Patches())
    assert result["routers"].tolist() == ["patches"]
    assert result["tokens"].tolist() == [[4]] * 5
    assert result["selected"].sum() == 5 * 4 * 2


def test_a_router_that_answers_otherwise_is_an_error_that_says_what_is_wanted() -> None:
    class OddRouter(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(60, 4)
            self.gate = OddRouter()

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.gate(self.embed(tokens))

    with pytest.raises(Unmeasurable, match=r"the router gate returned Tensor.*model\.routers"):
        run(ROUTING, token_probe([3]), Odd())


@pytest.mark.parametrize(
    ("family", "probe", "said"),
    [
        ("llama", ([4], 60, None), "is dense, and has no expert pathways; --set pathway_metrics.kind=neurons"),
        ("olmoe", ([70], 60, None), "a sample of 70 tokens, and the model's context is 64: set max_length: 64"),
        ("olmoe", ([4], 5000, None), "the model's vocabulary has 64: its tokenizer is not this model's"),
        ("olmoe", ([4], 9, 100), "a tokenizer of 100 ids, and the model's vocabulary has 64"),
    ],
)
def test_what_does_not_fit_is_said_with_the_way_out(
    family: str, probe: tuple[list[int], int, int | None], said: str
) -> None:
    lengths, largest, tokenizer = probe
    with pytest.raises(Unmeasurable, match=re.escape(said)):
        run(ROUTING, token_probe(lengths, largest, vocabulary=tokenizer), tiny(family))


def test_a_model_larger_than_memory_is_probed_with_the_same_result() -> None:
    pytest.importorskip("accelerate", reason="accelerate reads the layers as they are needed")
    model, probe = tiny("olmoe", num_hidden_layers=6), token_probe([6, 4])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    checkpoint = checkpoint_of(model.state_dict(), model.config.to_dict())
    on_disk = build_model(checkpoint, memory_bytes=size // 2)
    assert "disk" in set(on_disk.hf_device_map.values())
    expected, found = run(ROUTING, probe, model), run(ROUTING, probe, on_disk)
    assert not np.isnan(found["gram"]).any()  # the router matrices, too, come from disk
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
