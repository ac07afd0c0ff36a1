"""Checkpoints in several files: read as one; a missing shard is named and costs its own tensors only."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive, open_tensors
from pipeline.archive.formats import scan
from tests.pipeline.archive.folders import bits, only_run, save, torch_bits, weights, write_json


def write_shards(folder: Path, suffix: str = ".safetensors", seed: int = 0) -> Path:
    """Two shards and their index, as save_pretrained names them."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    state = weights(seed)
    parts = [{"fc1.weight": state["fc1.weight"]}, {name: state[name] for name in ("fc2.weight", "fc1.bias")}]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = save(folder / f"{stem}-{number:05d}-of-00002{suffix}", part)
        weight_map |= dict.fromkeys(part, file.name)
    return write_json(folder / f"{stem}{suffix}.index.json", {"metadata": {}, "weight_map": weight_map})


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_as_one_checkpoint(tmp_path: Path, suffix: str) -> None:
    for step in (10, 20):
        write_shards(tmp_path / f"checkpoint-{step}", suffix, seed=step)
    run = only_run(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [10, 20]
    last = run.checkpoints[-1]
    assert last.format.endswith("-sharded") and len(last.files) == 3 and not last.problems
    with open_tensors(last) as tensors:
        for name, tensor in weights(20).items():
            assert bits(tensors.read(name)) == torch_bits(tensor)


def test_a_missing_shard_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    (checkpoint,) = only_run(tmp_path).checkpoints
    assert {tensor.name for tensor in checkpoint.tensors} == {"fc2.weight", "fc1.bias"}
    (problem,) = checkpoint.problems
    assert problem.path == "model-00001-of-00002.safetensors"
    assert "missing" in problem.reason and "fc1.weight" in problem.reason
    with open_tensors(checkpoint) as tensors:
        assert bits(tensors.read("fc1.bias")) == torch_bits(weights()["fc1.bias"])


def test_a_damaged_shard_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    (checkpoint,) = only_run(tmp_path).checkpoints
    assert [tensor.name for tensor in checkpoint.tensors] == ["fc1.weight"]
    assert "truncated" in checkpoint.problems[0].reason


def test_a_tensor_that_its_shard_does_not_hold_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    index.write_text(index.read_text().replace("fc1.bias", "fc9.bias"))
    contents = scan(index)
    assert [problem.tensor for problem in contents.problems] == ["fc9.bias"]
    assert any("also holds fc1.bias" in note for note in contents.notes)


def test_no_shard_at_all_is_a_problem_of_the_archive(tmp_path: Path) -> None:
    write_shards(tmp_path)
    for shard in tmp_path.glob("*.safetensors"):
        shard.unlink()
    archive = open_archive(tmp_path)
    assert archive.runs == ()
    assert "none of its shards can be read" in archive.problems[0].reason


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3, None])
def test_an_index_leads_to_files_beside_it_only(tmp_path: Path, file: object) -> None:
    index = write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"w": file}})
    with pytest.raises(ArchiveError, match=r"w: .* is not a file beside the index"):
        scan(index)


def test_a_shard_without_its_index_is_a_problem(tmp_path: Path) -> None:
    write_shards(tmp_path).unlink()
    archive = open_archive(tmp_path)
    assert archive.runs == ()
    assert "without its index" in archive.problems[0].reason


def test_a_broken_index_is_one_problem_and_not_one_per_shard(tmp_path: Path) -> None:
    write_shards(tmp_path).write_text("{")
    archive = open_archive(tmp_path)
    assert [problem.path for problem in archive.problems] == ["model.safetensors.index.json"]
