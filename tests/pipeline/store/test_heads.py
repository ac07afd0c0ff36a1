"""Output heads: a tied one is compared with the embedding that it is, a new one is a note and costs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as t

from analyzers.contract import Analyzer, Derived, Statistic, Sum, Variable, View
from analyzers.intrinsic_dimension.trajectory import Trajectory
from analyzers.intruder_dimensions import IntruderDimensions
from pipeline.analysis.library import ingest
from pipeline.archive.heads import is_head, ties_embeddings
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.compute.run import compute
from pipeline.models.stored import open_checkpoint
from pipeline.store import Store
from pipeline.units.addresses import CheckpointRef, MatrixRef
from pipeline.units.selection import Selection
from pipeline.units.sources import BaseReference, Sources

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


class RunPath(Analyzer):
    """Only the path of a run through weight space."""

    name, version = "run_path", 1
    variables = (Variable("length", ("run",), "‖w_T − w_0‖"),)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Trajectory(),)

    def derive(self, view: View) -> Derived:
        raise NotImplementedError


def path_of(store: Store) -> dict[str, Any]:
    """The stored trajectory of x/lora."""
    with ThreadCluster(1) as cluster:
        summary = compute(store, [RunPath()], cluster)
    assert not summary.failures, summary.failures[0].traceback
    units = plan(store, [RunPath()]).units
    places = units.of(next(p for p in units.prepared if p.name == "weight_trajectory")).places
    found = store.statistic("weight_trajectory").read(places.values())[places["x/lora", None, None]]
    assert not isinstance(found, str)
    return dict(found)


def llama(tie: bool) -> Any:
    return t.LlamaForCausalLM(t.LlamaConfig(**SIZES, tie_word_embeddings=tie, pad_token_id=0))


TIED = {
    "llama": (lambda: llama(True), "q_proj", "lm_head"),
    "gpt2": (
        lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)),
        "c_attn",
        "lm_head",
    ),
    "t5": (
        lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=40, d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=8, decoder_start_token_id=0)
        ),
        "q",
        "lm_head",
    ),
    "bert": (lambda: t.BertForMaskedLM(t.BertConfig(**SIZES)), "query", "cls.predictions.decoder"),
    "llava": (
        lambda: t.LlavaForConditionalGeneration(
            t.LlavaConfig(
                tie_word_embeddings=True,
                text_config={"model_type": "llama", **SIZES},
                vision_config={
                    "model_type": "clip_vision_model",
                    **{key: SIZES[key] for key in SIZES if key != "vocab_size"},
                    "image_size": 28,
                    "patch_size": 14,
                },
            )
        ),
        "q_proj",
        "lm_head",
    ),
}


def draw(parameters: Any, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in parameters:
        parameter.data = 0.2 * torch.randn_like(parameter)


def tuned_steps(root: Path, model: Any, config: peft.LoraConfig, steps: tuple[int, ...] = (1, 2)) -> Any:
    """Adapters of one base in root/lora/checkpoint-N, drawn anew at each step; the last one's model."""
    adapted = peft.get_peft_model(model, config)
    for step in steps:
        draw([p for p in adapted.parameters() if p.requires_grad], step)
        adapted.save_pretrained(root / "lora" / f"checkpoint-{step}")
    return adapted


def stored(root: Path) -> tuple[Store, Sources]:
    store = ingest(root, root.parent / "store.zarr")
    return store, Sources(Store.open(store.path, "a"), Selection())


def wrong(store: Store, analyzers: list[Any]) -> list[str]:
    return [f"{s.matrix}: {s.reason}" for s in plan(store, analyzers).skips if s.wrong]


@pytest.mark.parametrize("kind", ["lora", "saved"])
@pytest.mark.parametrize("family", TIED)
def test_a_tied_head_is_compared_with_the_embedding_that_it_is(family: str, kind: str, tmp_path: Path) -> None:
    make, other, head = TIED[family]
    model = make()
    draw(model.parameters(), 0)
    model.tie_weights()
    model.save_pretrained(tmp_path / "x" / "base")
    before = model.get_output_embeddings().weight.detach().clone()
    leaf = head.rsplit(".", 1)[-1]
    lora = (
        {"target_modules": [other, leaf]} if kind == "lora" else {"target_modules": [other], "modules_to_save": [leaf]}
    )
    adapted = tuned_steps(tmp_path / "x", model, peft.LoraConfig(r=2, lora_alpha=6, **lora))
    store, sources = stored(tmp_path / "x")
    assert not wrong(store, [IntruderDimensions()])
    reference = sources.reference("x/lora", 2, "base")
    assert isinstance(reference, BaseReference)
    on_disk = "language_model.lm_head" if family == "llava" else head  # names are those of the files
    mine = sources.tuned("x/lora", 2)[on_disk]
    assert isinstance(mine, MatrixRef)
    under = sources.counterpart("x/lora", 2, on_disk, mine, reference)
    assert isinstance(under, MatrixRef)
    base_values = store.load(under.recipe)
    np.testing.assert_array_equal(base_values.float().numpy(), before.numpy())
    of_peft = dict(adapted.base_model.model.named_modules())[head]
    delta = (
        of_peft.get_delta_weight("default") if kind == "lora" else of_peft.modules_to_save["default"].weight - before
    )
    content = store.load(mine.recipe)
    low_rank = content.delta.dense(torch.float64) if isinstance(content, Sum) else None
    values = content.double() if isinstance(content, torch.Tensor) else base_values.double() + low_rank
    np.testing.assert_allclose(
        (values - base_values.double()).detach().numpy(), delta.detach().double().numpy(), atol=1e-6
    )


def parameters(sources: Sources, store: Store, step: int) -> dict[str, torch.Tensor]:
    whole = sources.whole("x/lora", step)
    assert isinstance(whole, CheckpointRef)
    opened = open_checkpoint(store, whole)
    return {info.name: opened.read(info.name) for info in opened.parameters}


@pytest.mark.parametrize("kind", ["lora", "saved"])
def test_a_tied_head_that_was_tuned_is_a_parameter_of_its_own_and_the_run_has_its_path(
    kind: str, tmp_path: Path
) -> None:
    model = llama(True)
    draw(model.parameters(), 0)
    model.save_pretrained(tmp_path / "x" / "base")
    embedding = model.model.embed_tokens.weight.detach().clone()
    head = (
        {"target_modules": ["lm_head"]}
        if kind == "lora"
        else {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    )
    adapted = tuned_steps(tmp_path / "x", model, peft.LoraConfig(r=2, **head), (1, 2, 3))
    store, sources = stored(tmp_path / "x")
    found = parameters(sources, store, 3)
    torch.testing.assert_close(found["model.embed_tokens.weight"], embedding)
    module = adapted.base_model.model.lm_head
    expected = (
        embedding + module.get_delta_weight("default") if kind == "lora" else module.modules_to_save["default"].weight
    )
    torch.testing.assert_close(found["lm_head.weight"], expected.detach())
    opened = open_checkpoint(store, sources.whole("x/lora", 3))
    assert not ties_embeddings(opened.config)
    assert list(path_of(store)["steps"]) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["classifier saved", "classifier tuned", "full model", "resized"])
def test_a_head_that_only_the_tuned_model_has_is_nothing_wrong(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "x"
    base = llama(False)
    draw(base.parameters(), 0)
    base.save_pretrained(root / "base")
    classifier = t.LlamaForSequenceClassification.from_pretrained(root / "base", num_labels=3)
    if kind.startswith("classifier"):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
        if kind == "classifier tuned":
            config = peft.LoraConfig(r=2, target_modules=["q_proj", "score"])
        tuned_steps(root, classifier, config, (1, 2, 3))
    else:
        model = base if kind == "resized" else classifier
        for step in (1, 2, 3):
            if kind == "resized":
                model.resize_token_embeddings(44)
            draw(model.parameters(), step)
            model.save_pretrained(root / "lora" / f"checkpoint-{step}")
    store, sources = stored(root)
    assert not wrong(store, [IntruderDimensions(), RunPath()])
    found = parameters(sources, store, 3)
    assert ("score.weight" in found) is (kind in ("classifier saved", "full model"))
    assert list(path_of(store)["steps"]) == [1, 2, 3]
    notes = " ".join(s.reason for s in plan(store, [IntruderDimensions()]).skips)
    assert ("has no matrix of this name" in notes) or kind in ("resized", "classifier tuned")


def test_another_architecture_as_the_base_is_still_wrong(tmp_path: Path) -> None:
    llama(False).save_pretrained(tmp_path / "x" / "base")
    model = t.LlamaForCausalLM(t.LlamaConfig(**{**SIZES, "hidden_size": 32}, pad_token_id=0))
    model.save_pretrained(tmp_path / "x" / "lora" / "checkpoint-1")
    store, _ = stored(tmp_path / "x")
    assert any("up_proj" in line for line in wrong(store, [IntruderDimensions()]))


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "odd", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"tie_word_embeddings": "yes"}, False),
        ({}, False),
    ],
)
def test_what_a_config_ties(config: dict[str, Any], tied: bool) -> None:
    assert ties_embeddings(config) is tied


@pytest.mark.parametrize("name", ["score", "classifier.dense", "qa_outputs", "cls.predictions.decoder", "head.fc"])
def test_heads_are_known_by_their_words(name: str) -> None:
    assert is_head(name, "linear")
    assert not is_head("layers.0.mlp.up_proj", "mlp.up")
