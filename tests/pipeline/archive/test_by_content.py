"""What a file is, is told by its content: the name only orders the guesses. What is not read is listed, and why."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive, open_tensors, require_runs
from pipeline.archive.formats import recognise, torch_zip
from tests.pipeline.archive.folders import bits, only_run, save, steps, torch_bits, weights

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize {}\n"
SUFFIXES = ["", ".pt", ".pth", ".bin", ".ckpt", ".th", ".pth.tar", ".pkl", ".model", ".safetensors", ".h5", ".unheard"]


def adam_state(seed: int = 0) -> dict[str, Any]:
    """What Adam keeps of a small net after one step."""
    torch.manual_seed(seed)
    net = torch.nn.Linear(8, 16)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 8)).pow(2).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def nothing_found(root: Path) -> str:
    with pytest.raises(ArchiveError) as raised:
        require_runs(open_archive(root))
    return str(raised.value)


@settings(deadline=None, max_examples=40)
@given(
    suffix=st.sampled_from(SUFFIXES),
    kind=st.sampled_from(["zip", "legacy", "safetensors"]),
    stem=st.sampled_from(["step_7", "checkpoint-7", "7", "global_step7", "my.net_step7"]),
)
@example(suffix=".unheard", kind="zip", stem="7")
@example(suffix=".pth.tar", kind="legacy", stem="7")
def test_weights_are_read_under_any_suffix(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, kind: str, stem: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "run" / f"{stem}{suffix}"
    path.parent.mkdir()
    if kind == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
    run = only_run(path.parent)
    (checkpoint,) = run.checkpoints
    assert checkpoint.step == 7
    with open_tensors(checkpoint) as tensors:
        for name, tensor in weights().items():
            assert bits(tensors.read(name)) == torch_bits(tensor)


def test_lightning_checkpoints_have_their_steps_and_last_is_the_final_one(tmp_path: Path) -> None:
    for name, step in (("epoch=1-step=500", 500), ("last", 900)):
        state = {"epoch": 1, "global_step": step, "state_dict": weights(step), "optimizer_states": [adam_state()]}
        save(tmp_path / f"{name}.ckpt", state)
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [500, 900]} and archive.problems == ()


def test_a_suffix_of_two_parts_is_no_part_of_the_runs_name(tmp_path: Path) -> None:
    save(tmp_path / "resnet.pth.tar")
    save(tmp_path / "vit.th", seed=1)
    save(tmp_path / "0.1_state", seed=2)
    assert set(steps(open_archive(tmp_path, name="zoo"))) == {"zoo/resnet", "zoo/vit", "zoo/0.1_state"}


@pytest.mark.parametrize(
    "name",
    ["model_optim_rng.pt", "resnet_cosine_scheduler_epoch_10.pt", "adam_optimizer_lr0.1_step100.pt", "sampler.pth"],
)
def test_weights_under_a_name_of_training_state_are_read(tmp_path: Path, name: str) -> None:
    save(tmp_path / name, {"model": weights(), "optimizer": adam_state()})
    (checkpoint,) = only_run(tmp_path).checkpoints
    assert {tensor.name for tensor in checkpoint.tensors} == set(weights())


def test_megatrons_only_rank_names_no_run(tmp_path: Path) -> None:
    for step in (1000, 2000):
        state = {"model": {"language_model": weights(step)}, "iteration": step, "optimizer": adam_state()}
        save(tmp_path / "megatron" / f"iter_{step:07d}" / "mp_rank_00" / "model_optim_rng.pt", state)
    assert steps(open_archive(tmp_path, name="zoo")) == {"zoo/megatron": [1000, 2000]}


@pytest.mark.parametrize("wrap", [dict, lambda state: {"optimizer": state, "epoch": 3}, lambda state: [state]])
@pytest.mark.parametrize("name", ["opt000100.pt", "adam_step100.pt", "momentum.th", "step100_extra"])
def test_an_optimizers_state_is_left_under_any_name(tmp_path: Path, name: str, wrap: Any) -> None:
    save(tmp_path / "model_step100.pt")
    save(tmp_path / name, wrap(adam_state()))
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [100]}
    assert archive.problems == ()
    (note,) = archive.notes
    assert note.startswith("ignored as training state: ")


def test_an_optimizers_state_in_safetensors_is_told_by_its_names(tmp_path: Path) -> None:
    save(tmp_path / "step1.safetensors")
    moments = {f"state.{n}.{kind}": torch.randn(3, 4) for n in (0, 1) for kind in ("exp_avg", "exp_avg_sq")}
    save(tmp_path / "opt1.safetensors", moments | {"state.0.step": torch.tensor(5.0)})
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [1]}
    assert archive.notes == ("ignored as training state: opt1.safetensors",)


def test_an_optimizer_deeper_in_the_file_is_left_and_the_model_read(tmp_path: Path) -> None:
    state = {"generator": weights(1), "discriminator": weights(2), "solver": adam_state(), "epoch": 3}
    (checkpoint,) = only_run(save(tmp_path / "gan.pt", state).parent).checkpoints
    assert {tensor.name.split(".")[0] for tensor in checkpoint.tensors} == {"generator", "discriminator"}
    assert any("solver" in note for note in checkpoint.notes)


@pytest.mark.parametrize("key", ["model", "state_dict", "weights"])
def test_data_beside_the_model_is_left_and_the_model_keeps_its_names(tmp_path: Path, key: str) -> None:
    data = {"train_data": torch.zeros(5, 2), "replay_buffer": {"obs": torch.zeros(5, 2)}, "log_alpha": torch.zeros(1)}
    save(tmp_path / "step_1.pt", {"fixed_noise": torch.zeros(9, 3), key: weights(), **data})
    (checkpoint,) = open_archive(tmp_path).runs[0].checkpoints
    assert {tensor.name for tensor in checkpoint.tensors} == set(weights())


def test_data_beside_several_networks_is_left_and_vectors_stay(tmp_path: Path) -> None:
    data = {"fixed_noise": torch.zeros(9, 3), "replay_buffer": {"obs": torch.zeros(5, 2)}, "log_alpha": torch.zeros(1)}
    save(tmp_path / "step_1.pt", {"G": weights(), "D": weights(1), **data})
    archive = open_archive(tmp_path)
    (checkpoint,) = archive.runs[0].checkpoints
    networks = {f"{network}.{name}" for network in "GD" for name in weights()}
    assert {tensor.name for tensor in checkpoint.tensors} == networks | {"log_alpha"}
    assert any("fixed_noise" in str(note) and "replay_buffer" in str(note) for note in checkpoint.notes)


def test_bare_parameters_beside_named_ones_are_weights(tmp_path: Path) -> None:
    state = {"W": torch.zeros(4, 3), "b": torch.zeros(4), **weights()}
    save(tmp_path / "step_1.pt", state)
    (checkpoint,) = open_archive(tmp_path).runs[0].checkpoints
    assert {tensor.name for tensor in checkpoint.tensors} == set(state)


def test_schedulers_scalers_and_random_states_are_training_state(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    save(tmp_path / "decay.pt", torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], 0.1), 1).state_dict())
    save(tmp_path / "amp.pt", {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000})
    save(tmp_path / "rng_state.pth", {"cpu": torch.get_rng_state()})
    archive = open_archive(tmp_path)
    assert archive.problems == ()
    assert archive.notes == ("ignored as training state: amp.pt, decay.pt, rng_state.pth",)


def sb3_zip(path: Path, step: int, compression: int = zipfile.ZIP_STORED, legacy: bool = False) -> dict[str, Any]:
    """An agent as Stable-Baselines3 saves it; gives its policy."""
    policy = {"net.0.weight": torch.randn(64, 4), "action.weight": torch.randn(2, 64).t(), "action.bias": torch.ones(2)}
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("data", json.dumps({"num_timesteps": step, "gamma": 0.99}))
        for name, state in (
            ("pytorch_variables.pth", {"log_ent_coef": torch.zeros(1)}),
            ("policy.pth", policy),
            ("policy.optimizer.pth", adam_state()),
        ):
            buffer = io.BytesIO()
            torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
            file.writestr(name, buffer.getvalue())
        file.writestr("_stable_baselines3_version", "2.3.0")
    return policy


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("legacy", [False, True])
def test_an_agent_in_a_zip_is_read_with_its_step(tmp_path: Path, compression: int, legacy: bool) -> None:
    policies = {step: sb3_zip(tmp_path / f"agent_{step}.zip", step, compression, legacy) for step in (1000, 2000)}
    archive = open_archive(tmp_path, name="ppo")
    assert archive.problems == ()
    checkpoints = [checkpoint for run in archive.runs for checkpoint in run.checkpoints]
    assert sorted(checkpoint.step for checkpoint in checkpoints) == [1000, 2000]
    for checkpoint in checkpoints:
        assert checkpoint.notes == ("ignored as training state: policy.optimizer.pth",)
        with open_tensors(checkpoint) as tensors:
            names = {header.name for header in tensors.headers}
            assert names == {*policies[checkpoint.step], "pytorch_variables.log_ent_coef"}
            for name, tensor in policies[checkpoint.step].items():
                assert bits(tensors.read(name)) == torch_bits(tensor)


def test_a_zip_of_several_checkpoints_and_a_zip_of_data_are_not_taken_for_one(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    for name, members in (("all.zip", ["a/step1.pt", "b/step1.pt"]), ("photos.zip", ["a.png", "b.txt"])):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for member in members:
                file.writestr(member, bytes(100))
    archive = open_archive(tmp_path)
    assert archive.problems == ()
    assert archive.notes == ("all.zip: not a checkpoint: checkpoints packed into an archive are not read (unpack it)",)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "step5.ckpt", "model.safetensors.index.json"]
)
def test_what_stands_for_a_file_that_was_not_fetched_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content, reason in (
        (LFS_POINTER.format(438_000_000), "a Git LFS pointer (438 MB): run git lfs pull"),
        ("<!DOCTYPE html><html></html>", "a web page, not weights: download the file again"),
        ("\n<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page, not weights: download the"),
        ("", "empty (0 bytes)"),
    ):
        path.write_text(content)
        (problem,) = open_archive(tmp_path).problems
        assert problem.path == name and problem.reason.startswith(reason)


def test_a_shard_that_is_a_pointer_is_named_as_one(tmp_path: Path) -> None:
    parts = {"model-00001-of-00002.safetensors": ["a"], "model-00002-of-00002.safetensors": ["b"]}
    save(tmp_path / "model-00001-of-00002.safetensors", {"a": torch.randn(2, 3)})
    (tmp_path / "model-00002-of-00002.safetensors").write_text(LFS_POINTER.format(5_000_000_000))
    index = {"weight_map": {tensor: file for file, tensors in parts.items() for tensor in tensors}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint,) = only_run(tmp_path).checkpoints
    assert "a Git LFS pointer (5.0 GB)" in checkpoint.problems[0].reason


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    os.mkfifo(tmp_path / "step2.pt")
    os.mkfifo(tmp_path / "pipe")
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [1]}
    assert [(problem.path, "not a regular file" in problem.reason) for problem in archive.problems] == [
        ("step2.pt", True)
    ]


def test_the_hugging_face_cache_is_read_by_its_snapshots(tmp_path: Path) -> None:
    blob = save(tmp_path / "models--a--b" / "blobs" / "0f1e2d").resolve()
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1a2b"
    snapshot.mkdir(parents=True)
    (snapshot / "pytorch_model.bin").symlink_to(blob)
    archive = open_archive(tmp_path, name="hub")
    assert [checkpoint.path.name for run in archive.runs for checkpoint in run.checkpoints] == ["pytorch_model.bin"]


def test_whatever_a_parser_raises_is_a_finding_of_its_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "step1.safetensors")
    save(tmp_path / "step2.pt")

    def broken(*_: object) -> object:
        raise RecursionError("too deep")

    monkeypatch.setattr(torch_zip, "find_weights", broken)
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [1]}
    (problem,) = archive.problems
    assert problem.path == "step2.pt" and "RecursionError: too deep" in problem.reason


@settings(deadline=None, max_examples=200)
@given(
    content=st.binary(max_size=300), start=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x81\xa1", b"\x89HDF"])
)
def test_any_bytes_are_recognised_as_something(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(start + content)
    recognised = recognise(path)
    assert sum(map(bool, (recognised.format, recognised.unread, recognised.fault))) <= 1


def test_text_files_called_as_weights_are_one_note_beside_weights_and_a_problem_without(tmp_path: Path) -> None:
    save(tmp_path / "CKPT" / "model.ckpt", weights(1))
    for name, text in (("counter", "12"), ("brain", "step: 3\n"), ("loader", "1000")):
        (tmp_path / "CKPT" / f"{name}.ckpt").write_text(text)
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run/CKPT": [0]} and archive.problems == ()
    (note,) = archive.notes
    assert note.startswith("CKPT/brain.ckpt: text files") and "2 more such files" in note
    (tmp_path / "CKPT" / "model.ckpt").unlink()
    assert "text files that are called as weights" in nothing_found(tmp_path)


def test_a_numbered_file_without_matrices_beside_a_trainers_weights_is_training_state(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint_0" / "pytorch_model.bin")
    torch.save({"best": 0.5}, tmp_path / "checkpoint_0" / "custom_checkpoint_0.pkl")
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [0]} and archive.problems == ()
    assert archive.notes == ("checkpoint_0: ignored as training state: custom_checkpoint_0.pkl",)


@pytest.mark.parametrize(
    ("name", "is_copy"),
    [("flax_model.msgpack", True), ("tf_model.h5", True), ("model.keras", True), ("vae.msgpack", False)],
)
def test_another_format_of_what_is_read_is_a_note_and_of_another_model_a_problem(
    tmp_path: Path, name: str, is_copy: bool
) -> None:
    for step in (1, 2):
        save(tmp_path / f"model_step{step}.pt")
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + b"model_weights" if name.endswith("5") else os.urandom(99))
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [1, 2]}
    assert (len(archive.problems), len(archive.notes)) == ((0, 1) if is_copy else (1, 0))


def test_a_list_of_state_dicts_is_read_by_position_and_a_pair_as_its_state_dict(tmp_path: Path) -> None:
    for name, saved in (("ensemble", [weights(1), weights(2)]), ("pair", (weights(1), 500))):
        (tmp_path / name).mkdir()
        torch.save(saved, tmp_path / name / "model.pt")
    ensemble, pair = open_archive(tmp_path).runs
    assert {tensor.name for tensor in ensemble.checkpoints[0].tensors} == {
        f"{at}.{name}" for at in (0, 1) for name in weights()
    }
    assert {tensor.name for tensor in pair.checkpoints[0].tensors} == set(weights())
