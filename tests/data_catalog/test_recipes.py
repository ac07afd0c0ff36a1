"""The recipes train for real, small: what they write is what trainers and PEFT write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_catalog import CatalogError
from data_catalog.recipes import grokking, grokking_moe, language_model, minilm_sst2, mixture
from data_catalog.recipes.saving import complete


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("language")
    base = language_model.pretrain(out, lambda _: None, steps=4, every=2)
    language_model.tune_in_full(base.parent, base, lambda _: None, steps=2, every=1)
    language_model.tune_with_lora(base.parent, base, lambda _: None, rank=4, lr=1e-2, steps=2, every=1)
    return base.parent


def test_the_addition_table_is_addition_and_splits_without_overlap() -> None:
    tokens, answers, train = grokking.addition_table(7, 0.3, seed=1)
    assert tokens.shape == (49, 3) and int(train.sum()) == int(0.3 * 49)
    assert all((a + b) % 7 == c for (a, b, _), c in zip(tokens.tolist(), answers.tolist(), strict=True))


def test_grokking_saves_weights_that_move_and_a_log_with_both_accuracies(tmp_path: Path) -> None:
    grokking.make(tmp_path, lambda _: None, modulus=11, steps=60, width=32)
    steps = sorted(int(p.name.split("-")[1]) for p in (tmp_path / "grokking").iterdir())
    assert steps[0] == 0 and steps[-1] == 60
    first = load_file(tmp_path / "grokking/checkpoint-0/model.safetensors")
    last = load_file(tmp_path / "grokking/checkpoint-60/model.safetensors")
    name = "layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], last[name])
    state = json.loads((tmp_path / "grokking/checkpoint-60/trainer_state.json").read_text())
    assert state["global_step"] == 60
    assert {"train_accuracy", "eval_accuracy"} <= set(state["log_history"][-1])


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        grokking.make(tmp_path / name, lambda _: None, modulus=11, steps=5, width=32)
    one, two = (load_file(tmp_path / n / "grokking/checkpoint-5/model.safetensors") for n in ("one", "two"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_that_is_complete_is_not_trained_again_and_a_broken_one_is(tmp_path: Path) -> None:
    calls = []

    def train(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        (folder / "x").write_text("done")

    with pytest.raises(KeyboardInterrupt):
        complete(tmp_path / "run", print, train)
    assert not (tmp_path / "run").exists()
    complete(tmp_path / "run", print, train)
    complete(tmp_path / "run", print, train)
    assert len(calls) == 2 and (tmp_path / "run/x").read_text() == "done"


def test_the_lora_run_is_what_peft_reads_and_merges_to_the_same_model(language: Path) -> None:
    peft = pytest.importorskip("peft")
    adapter = language / "lora-r4/checkpoint-2"
    model = language_model._load(language / "base")
    merged = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    base = load_file(language / "base/model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    module = "layers.1.mlp.down_proj"
    a, b = (factors[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
    # Two float32 summations of a rank-4 product in different order: a few ulp of the entries (~1e-7 relative).
    expected = base[f"{module}.weight"] + 2.0 * (b @ a)
    assert b.abs().max() > 0
    torch.testing.assert_close(merged[f"{module}.weight"], expected, rtol=1e-5, atol=1e-6)


def test_tuning_in_full_starts_from_the_base(language: Path) -> None:
    base = load_file(language / "base/model.safetensors")
    start = load_file(language / "full/checkpoint-0/model.safetensors")
    assert all(torch.equal(base[k], start[k]) for k in base)


def test_sentences_with_a_wrong_label_are_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\ngood film\t1\nbad film\tnegative\n")
    with pytest.raises(CatalogError, match="line 3"):
        minilm_sst2.read_sentences(path)
    path.write_text("good film\t1\nfine film\t1\n")
    with pytest.raises(CatalogError, match="two classes"):
        minilm_sst2.read_sentences(path)


def test_missing_sentences_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="VARVE_SST2"):
        minilm_sst2.make(tmp_path / "out", print, str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_the_mixture_and_its_control_are_saved_with_a_probe_and_can_be_built_again(tmp_path: Path) -> None:
    grokking_moe.make(tmp_path, lambda _: None, modulus=7, steps=60, probe_samples=20)
    for run in ("generalising-0", "control-0"):
        folder = tmp_path / run / "checkpoint-60"
        model = mixture.build(json.loads((folder / "config.json").read_text()))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        assert model(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, 8)
    tokens, answers = np.load(tmp_path / "probe/tokens.npy"), np.load(tmp_path / "probe/answers.npy")
    assert len(tokens) == 20
    assert np.array_equal((tokens[:, 0] + tokens[:, 1]) % 7, answers)


def test_a_mixture_uses_the_experts_that_its_router_returns() -> None:
    model = mixture.MixtureTransformer(mixture.MixtureShape(8, 3, width=8, heads=2, hidden=4, experts=4)).eval()
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    layer = model.layers[0].mlp
    _, weights, index = layer.gate(x)
    by_hand = torch.zeros(5, 8)
    for token in range(5):
        for weight, expert in zip(weights[token], index[token], strict=True):
            inner = torch.relu(layer.experts.up_proj[expert] @ x[token])
            by_hand[token] += weight * (layer.experts.down_proj[expert] @ inner)
    torch.testing.assert_close(layer(x[None])[0], by_hand)
