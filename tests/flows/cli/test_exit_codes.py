"""Exit code 3 means that something you asked for is missing; what lies beside the weights never changes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from flows.cli.app import run
from tests.end_to_end.archives import SHAPES, weights, write_adapter, write_run


def analyze(archive: Path, *more: str) -> int:
    out = archive.parent / "out"
    options = ("--out", str(out), "--no-flow", "--device", "cpu", "--analyzers", "weight_spectra")
    return run(["analyze", str(archive), *options, *more])


def data_files(archive: Path) -> None:
    for folder in (archive, archive / "run", archive / "run/checkpoint-10"):
        (folder / "log.csv").write_text("step,loss\n0,1.0\n10,0.5\n")
        (folder / "results.json").write_text('{"accuracy": 0.5}')
        (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}}}')
        (folder / "vocab.txt").write_text("a\nb\n")
        (folder / "plot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000))
        np.savez(folder / "activations.npz", inputs=np.zeros((7, 3)), labels=np.arange(7))
        np.save(folder / "labels.npy", np.arange(9))


def copies(archive: Path) -> None:
    for name in ("best", "last", "final"):
        shutil.copytree(archive / "run/checkpoint-20", archive / "run" / name)


def a_new_head(archive: Path) -> None:
    (archive / "base").mkdir()
    save_file(weights(5), archive / "base/model.safetensors")
    for file in (archive / "run").glob("*/model.safetensors"):
        save_file({**load_file(file), "classifier.weight": weights(1)["layers.0.mlp.up_proj.weight"][:3]}, file)


def unread_exports(archive: Path) -> None:
    folder = archive / "run/checkpoint-20"
    (folder / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(2000))
    (folder / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    (folder / "openvino_model.bin").write_bytes(bytes(range(256)) * 8)
    (folder / "openvino_model.xml").write_text('<?xml version="1.0"?><net name="m" version="11"></net>')


@pytest.mark.parametrize("beside", [data_files, copies, a_new_head, unread_exports])
def test_what_lies_beside_the_weights_leaves_the_exit_code_at_0(
    beside: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    write_run(archive / "run", 3)
    beside(archive)
    assert analyze(archive) == 0, capsys.readouterr()


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def test_a_damaged_checkpoint_in_the_middle_is_one_line_and_exit_code_3_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    write_run(archive / "run", 4)
    broken = archive / "run/checkpoint-20/model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-400])
    for _ in range(2):
        assert analyze(archive) == 3
        printed = capsys.readouterr()
        assert len(lines_with(printed.out + printed.err, "checkpoint-20")) == 1, printed


def test_a_tensor_that_cannot_be_read_is_reported_again_when_nothing_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for step in (10, 20, 30):
        tensors = {name: torch.from_numpy(value) for name, value in weights(step).items()}
        torch.save(tensors, archive / f"step_{step}.pt")
    damaged = archive / "step_20.pt"
    content = bytearray(damaged.read_bytes())
    at = content.find(weights(20)["layers.0.mlp.up_proj.weight"].tobytes()[:64])
    content[at : at + 8] = b"\xff" * 8
    damaged.write_bytes(content)
    for more in ((), (), ("--analyzers", "weight_spectra", "--include", "*")):
        assert analyze(archive, *more) == 3
        printed = capsys.readouterr()
        assert len(lines_with(printed.out + printed.err, "up_proj.weight: damaged")) == 1, printed


def test_a_base_that_does_not_exist_is_exit_code_2_when_given_and_3_when_a_config_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "archive"
    for name in ("a", "b", "c"):
        write_adapter(archive / name, 10, base="nobody/no-such-model")
    assert analyze(archive, "--base", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err
    for _ in range(2):
        assert analyze(archive) == 3
        printed = capsys.readouterr()
        (line,) = lines_with(printed.out + printed.err, "no-such-model'")
        assert "the base of 3 runs" in line and all(f"archive/{name}" in line for name in "abc"), line
        assert line.count("models--nobody--no-such-model") == 1


def test_a_folder_without_weights_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/results.json").write_text(json.dumps({name: list(shape) for name, shape in SHAPES.items()}))
    assert analyze(tmp_path / "archive") == 2
