"""Weights saved without a config, or below a wrapper's name, get the names and cuts of the base that they are compared
with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline import ingest
from pipeline.analysis.intake import layout_of
from pipeline.archive import open_archive
from pipeline.archive.bases import BaseMatch, match_base, resolve_base
from pipeline.archive.recipes import Dense, apply_ops
from pipeline.store import Store
from tests.pipeline.archive.test_renaming import MODELS

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
NETS = {
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=1)),
    "qwen2_vl": MODELS["qwen2_vl"],
    "segformer": MODELS["segformer"],
}

SIDES = {"A": (2, 6), "B": (8, 2)}


def save_at(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def saved(root: Path, net: str, prefix: str) -> dict[str, torch.Tensor]:
    """A base as `save_pretrained` writes it, and a run's bare state dict without a config."""
    torch.manual_seed(0)
    model = NETS[net]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(root / "base")
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    (root / "run").mkdir(exist_ok=True)
    torch.save(state, root / "run" / "step_10.pt")
    return state


def matched(root: Path) -> BaseMatch:
    archive = open_archive(root, name="a")
    run = next(run for run in archive.runs if run.id == "a/run")
    base = resolve_base(run, archive).checkpoint
    return match_base(layout_of(run.checkpoints[0], base), layout_of(base), base.config)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "net.", "lit.net._orig_mod."])
@pytest.mark.parametrize("net", NETS)
def test_a_bare_state_dict_finds_every_matrix_of_its_base(net: str, prefix: str, tmp_path: Path) -> None:
    state = saved(tmp_path, net, prefix)
    on_disk = load_file(tmp_path / "base" / "model.safetensors")
    found = matched(tmp_path)
    assert not found.unmatched
    assert len(found.pairs) > 7
    for mine, its in found.pairs:
        if isinstance(mine.recipe, Dense) and isinstance(its.recipe, Dense):
            tuned = apply_ops(state[mine.recipe.tensor].detach().numpy(), mine.recipe.ops)
            assert (tuned == apply_ops(on_disk[its.recipe.tensor].numpy(), its.recipe.ops)).all(), mine.name


@pytest.mark.parametrize(
    ("of_run", "of_base"), [("", "net."), ("", "lit.net."), ("model.inner.", "net."), ("", "a.b.c.")]
)
@pytest.mark.parametrize("net", NETS)
def test_a_prefix_that_only_the_base_has_is_found(net: str, of_run: str, of_base: str, tmp_path: Path) -> None:
    state = saved(tmp_path, net, of_run)
    (tmp_path / "base" / "model.safetensors").unlink()
    wrapped = {of_base + name.removeprefix(of_run): tensor for name, tensor in state.items()}
    torch.save({**wrapped, "criterion.weight": torch.randn(3, 2)}, tmp_path / "base" / "pytorch_model.bin")
    found = matched(tmp_path)
    assert len(found.pairs) > 7 and not found.unmatched
    for mine, its in found.pairs:
        if isinstance(mine.recipe, Dense) and isinstance(its.recipe, Dense):
            assert of_base + mine.recipe.tensor.removeprefix(of_run) == its.recipe.tensor
            assert mine.recipe.ops == its.recipe.ops


@pytest.mark.parametrize(("of_run", "of_base"), [("", "net."), ("net.", ""), ("wrapped.model.", "net.")])
def test_an_adapter_is_compared_with_a_base_of_another_prefix(of_run: str, of_base: str, tmp_path: Path) -> None:
    modules = [f"layers.{layer}.{name}" for layer in range(3) for name in ("q_proj", "v_proj")]
    save_at(tmp_path / "base" / "model.safetensors", {f"{of_base}{m}.weight": torch.randn(8, 6) for m in modules})
    factors = {f"{m}.lora_{side}.weight": torch.randn(*size) for m in modules for side, size in SIDES.items()}
    adapter = tmp_path / "run" / "checkpoint-10"
    save_at(adapter / "adapter_model.safetensors", {f"base_model.model.{of_run}{n}": t for n, t in factors.items()})
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    found = matched(tmp_path)
    assert len(found.pairs) == len(modules) and not found.unmatched
    for delta, weight in found.pairs:
        assert delta.name.endswith(tuple(modules)) and weight.name == delta.name


def test_of_two_wrapped_models_of_equal_shapes_none_is_taken(tmp_path: Path) -> None:
    net = {f"layer{n}.weight": torch.randn(5, 4) for n in range(4)}
    twins = {
        f"{encoder}.{name}": tensor.clone() for encoder in ("encoder_q", "encoder_k") for name, tensor in net.items()
    }
    save_at(tmp_path / "base" / "model.safetensors", twins)
    save_at(tmp_path / "run" / "step_10" / "model.safetensors", net)
    assert not matched(tmp_path).pairs


def test_a_part_of_a_larger_base_is_found(tmp_path: Path) -> None:
    vision = {f"encoder.block.{n}.fc.weight": torch.randn(5, 4) for n in range(4)}
    text = {f"text.block.{n}.fc.weight": torch.randn(7, 4) for n in range(9)}
    whole = {**{f"tower.{name}": tensor for name, tensor in vision.items()}, **text}
    save_at(tmp_path / "base" / "model.safetensors", whole)
    save_at(tmp_path / "run" / "step_10" / "model.safetensors", {**vision, "head.weight": torch.randn(2, 5)})
    found = matched(tmp_path)
    assert len(found.pairs) == 4 and [unmatched.name for unmatched in found.unmatched] == ["tower.head"]


def test_a_base_of_another_architecture_lends_nothing(tmp_path: Path) -> None:
    saved(tmp_path, "gpt_neox", "")
    torch.save({"layers.0.attention.query_key_value.weight": torch.randn(12, 4)}, tmp_path / "run" / "step_10.pt")
    archive = open_archive(tmp_path, name="a")
    run = next(run for run in archive.runs if run.id == "a/run")
    layout = layout_of(run.checkpoints[0], resolve_base(run, archive).checkpoint)
    assert [spec.name for spec in layout.matrices] == ["layers.0.attention.query_key_value"]


def test_a_base_that_is_given_later_renames_what_is_in_the_store(tmp_path: Path) -> None:
    saved(tmp_path / "archive", "gpt_neox", "net.")
    (tmp_path / "archive" / "base").rename(tmp_path / "elsewhere")
    store = ingest(tmp_path / "archive", tmp_path / "store.zarr")
    names = {matrix.spec.name for matrix in store.matrices(store.checkpoints("archive/run")[0])}
    assert any(name.startswith("net.") for name in names)
    ingest(tmp_path / "archive", tmp_path / "store.zarr", base=[str(tmp_path / "elsewhere")])
    store = Store.open(tmp_path / "store.zarr")
    names = {matrix.spec.name for matrix in store.matrices(store.checkpoints("archive/run")[0])}
    assert not any(name.startswith("net.") for name in names)
    assert "layers.0.attention.query_key_value.q" in names
