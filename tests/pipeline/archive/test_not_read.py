"""Formats that are not read: problems with a way out, notes beside weights, and files that are being written."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.archive import open_archive
from tests.pipeline.archive.folders import save, steps, trainer_checkpoint
from tests.pipeline.archive.test_by_content import adam_state, nothing_found


def _hdf5() -> bytes:
    return b"\x89HDF\r\n\x1a\n" + bytes(600) + b"layer_names" + bytes(600)


def _npz(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.ones((4, 4)) for name in names})
    return buffer.getvalue()


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"x" * 100)
    return buffer.getvalue()


# Flax: {"params": {"w": ext(1, ...)}}.
MSGPACK = b"\x81\xa6params\x81\xa1w\xc8\x01\x00\x01" + bytes(256)

UNREAD_WEIGHTS = {
    "HDF5 of Keras": (_hdf5(), "Keras"),
    "Keras zip": (_zip("config.json", "metadata.json", "model.weights.h5"), "Keras"),
    "Flax": (MSGPACK, "Flax"),
    "npz of parameters": (_npz(["layer0.kernel", "layer0.bias"]), "numpy archives (.npz) of parameters"),
    "TensorFlow 1": (bytes(100) + bytes.fromhex("57fb808b247547db"), "TensorFlow"),
    "GGUF": (b"GGUF" + bytes(200), "GGUF"),
    "TFLite": (b"\x1c\0\0\0TFL3" + bytes(200), "TensorFlow Lite"),
    "ONNX": (b"\x08\x08\x12\x07pytorch" + bytes(200), "ONNX"),
    "TorchServe": (_zip("MAR-INF/MANIFEST.json", "model.pt"), "TorchServe"),
    "torch.export": (_zip("m/archive_format", "m/models/model.json"), "torch.export"),
}


@pytest.mark.parametrize("name", ["weights_step5", "weights_step5.dat", "weights.ckpt", "weights.foo"])
@pytest.mark.parametrize("kind", UNREAD_WEIGHTS)
def test_weights_of_a_format_that_is_not_read_are_a_problem_with_a_way_out(
    tmp_path: Path, kind: str, name: str
) -> None:
    content, word = UNREAD_WEIGHTS[kind]
    (tmp_path / name).write_bytes(content)
    (problem,) = open_archive(tmp_path).problems
    assert problem.path == name and problem.reason.startswith(word) and "not read" in problem.reason and problem.hint
    assert str(problem) in nothing_found(tmp_path)


UNREAD_DATA = {
    "plain pickle": (pickle.dumps({"lr": [0.1] * 40}), "pickles that torch.save did not write"),
    "pickled tensors": (pickle.dumps({"w": torch.ones(3, 3)}), "torch tensors pickled without torch.save"),
    "npz of data": (_npz(["x_train", "y_train"]), "numpy archives"),
    "one array": (b"\x93NUMPY\x01\0" + bytes(200), "single numpy arrays"),
    "HDF5 of data": (b"\x89HDF\r\n\x1a\n" + bytes(1000), "HDF5"),
}


@pytest.mark.parametrize("kind", UNREAD_DATA)
def test_data_is_a_note_unless_its_name_says_that_it_is_a_checkpoint(tmp_path: Path, kind: str) -> None:
    content, reason = UNREAD_DATA[kind]
    save(tmp_path / "step1.pt")
    for name in ("data", "data.pkl", "step5.pkl", "weights.pth"):
        (tmp_path / name).write_bytes(content)
    archive = open_archive(tmp_path)
    assert {problem.path for problem in archive.problems} == {"step5.pkl", "weights.pth"}
    assert all(problem.reason.startswith(reason) and problem.hint for problem in archive.problems)
    (note,) = archive.notes
    assert note.startswith(f"data: not a checkpoint: {reason}") and "1 more such" in note


@pytest.mark.parametrize("name", ["model.onnx", "model_step1.onnx", "model-q4.gguf", "traced/model.tflite"])
def test_an_export_beside_weights_that_are_read_is_a_note(tmp_path: Path, name: str) -> None:
    save(tmp_path / "model_step1.pt")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(bytes(100))
    archive = open_archive(tmp_path)
    assert archive.problems == ()
    assert any(note.startswith(f"{name}: ") and "model_step1.pt beside it is read" in note for note in archive.notes)


def test_a_tensorflow_checkpoint_is_one_problem_whatever_its_files(tmp_path: Path) -> None:
    for step in (100, 200):
        for end in ("index", "meta", "data-00000-of-00002", "data-00001-of-00002"):
            (tmp_path / f"model.ckpt-{step}.{end}").write_bytes(bytes(64))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-200"')
    archive = open_archive(tmp_path)
    assert [problem.path for problem in archive.problems] == ["model.ckpt-100.index", "model.ckpt-200.index"]
    assert all("tf.train.load_checkpoint" in problem.hint for problem in archive.problems)


def test_a_part_of_a_distributed_checkpoint_is_not_taken_for_a_torch_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(torch.ones(3, 4), buffer)
    (tmp_path / "__0_0.distcp").write_bytes(buffer.getvalue() * 2)
    (tmp_path / "joined.pt").write_bytes(buffer.getvalue() * 2)
    problems = {problem.path: problem for problem in open_archive(tmp_path).problems}
    assert "dcp_to_torch" in problems["__0_0.distcp"].hint
    assert "several files in one" in problems["joined.pt"].reason


def test_only_what_could_hold_weights_is_mentioned(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    text = ("README.md", "train.py", "tokenizer.json", "vocab.txt", "loss.csv", "LICENSE", "merges", "config.foo")
    for name in text:
        (tmp_path / name).write_text("x = 1\n" * 100)
    (tmp_path / "plot.png").write_bytes(b"\x89PNG" + bytes(2 << 20))
    (tmp_path / "picture").write_bytes(b"\x89PNG" + bytes(2 << 20))
    (tmp_path / "events.out.tfevents.1").write_bytes(os.urandom(2 << 20))
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05" + os.urandom(2 << 20))
    (tmp_path / "small").write_bytes(os.urandom(500))
    archive = open_archive(tmp_path)
    assert archive.problems == () and archive.notes == ()
    (tmp_path / "large").write_bytes(b"\x01\x02" + bytes(2 << 20))
    (note,) = open_archive(tmp_path).notes
    assert note.startswith("large: not a checkpoint: files of unknown content")


@pytest.mark.parametrize("end", [".tmp", ".part", ".incomplete", ".crdownload", "~"])
def test_a_file_that_is_still_being_written_is_noted(tmp_path: Path, end: str) -> None:
    save(tmp_path / "step1.pt")
    whole = save(tmp_path / "other.pt", seed=2).read_bytes()
    (tmp_path / "other.pt").unlink()
    (tmp_path / f"step2.pt{end}").write_bytes(whole[:500])
    (tmp_path / f"notes.txt{end}").write_text("abc")
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [1]} and archive.problems == ()
    (note,) = archive.notes
    assert "still being written" in note and "rename it to step2.pt" in note


def test_a_folder_that_a_trainer_is_writing_is_noted_and_a_users_tmp_folder_is_read(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "run" / "checkpoint-5", 5)
    trainer_checkpoint(tmp_path / "run" / "tmp-checkpoint-10", 10)
    trainer_checkpoint(tmp_path / "tmp-lr3" / "checkpoint-1", 1)
    trainer_checkpoint(tmp_path / "sweep.tmp" / "checkpoint-2", 2)
    trainer_checkpoint(tmp_path / "tmp-step-9" / "checkpoint-3", 3)
    archive = open_archive(tmp_path, name="zoo")
    assert archive.problems == ()
    assert sorted(step for found in steps(archive).values() for step in found) == [1, 2, 3, 5]
    assert any(note.startswith("run/tmp-checkpoint-10: skipped: ") for note in archive.notes)


def test_when_nothing_is_found_each_file_is_named_with_the_reason(tmp_path: Path) -> None:
    torch.save(torch.randn(20, 3), tmp_path / "embeddings.pt")
    torch.save([torch.randn(4, 4)], tmp_path / "batch.pt")
    torch.save({"loss": 0.5}, tmp_path / "numbers.pt")
    torch.save(adam_state(), tmp_path / "adam.pt")
    (tmp_path / "README.md").write_text("x")
    message = nothing_found(tmp_path)
    for line in (
        "embeddings.pt: holds no weights: a tensor, not a dict of weights",
        "batch.pt: holds no weights: a list, not a dict of weights",
        "numbers.pt: holds no weights: no tensors, but loss",
        "ignored as training state: adam.pt",
        "torch.save(model.state_dict(), path)",
        ".md (1)",
    ):
        assert line in message
    assert "No file" not in message


def test_a_file_given_by_name_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    assert "GGUF is not read: give the checkpoint that it was made from" in nothing_found(path)
