"""Weights saved without a config, or below a wrapper's name, get the names and cuts of the base that they are compared
with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from pipeline import ingest
from pipeline.archive import open_archive
from pipeline.archive.bases import BaseMatch, match_base, resolve_base
from pipeline.archive.recipes import Dense, apply_ops
from pipeline.intake import layout_of
from pipeline.store import Store
from tests.pipeline.archive.test_renaming import MODELS

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
NETS = {
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SIZES)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_key_value_heads=1)),
    "qwen2_vl": MODELS["qwen2_vl"],
    "segformer": MODELS["segformer"],
}


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
