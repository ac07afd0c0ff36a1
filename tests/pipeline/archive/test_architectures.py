"""Runs whose checkpoints are of several architectures."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.archive import open_archive
from pipeline.archive.architectures import alike, architectures, in_words, shapes_of
from tests.pipeline.archive.folders import save


def _net(width: int, layers: int = 2) -> dict[str, torch.Tensor]:
    return {f"layers.{at}.weight": torch.randn(width, width) for at in range(layers)}


def test_a_new_layer_a_new_head_or_a_larger_vocabulary_is_no_other_architecture() -> None:
    small = {"embedding": (10, 4), "fc1": (4, 4), "fc2": (4, 4)}
    assert alike(small, {**small, "fc3": (4, 4), "head": (2, 4)})
    assert alike(small, {**small, "embedding": (12, 4)})
    assert not alike(small, dict.fromkeys(small, (8, 8)))
    assert not alike(small, {"other": (4, 4)})


def test_what_torch_wraps_a_model_in_is_no_other_architecture(tmp_path: Path) -> None:
    net = _net(12, 3)
    for epoch, prefix in enumerate(["", "module.", "_orig_mod.", "module._orig_mod."], 1):
        save(tmp_path / f"model_epoch_{epoch}.pt", {prefix + name: tensor for name, tensor in net.items()})
    (run,) = open_archive(tmp_path, name="zoo").runs
    assert len(architectures({c.step: shapes_of(c.tensors) for c in run.checkpoints})) == 1


def test_steps_of_each_architecture_are_told_in_one_sentence(tmp_path: Path) -> None:
    for epoch in range(1, 7):
        save(tmp_path / f"model_epoch_{epoch}.pt", _net(12, 3) if epoch in (3, 5) else _net(16))
    archive = open_archive(tmp_path, name="zoo")
    assert [len(run.checkpoints) for run in archive.runs] == [6] and archive.problems == ()
    (hint,) = archive.hints
    assert "have 2 architectures: epochs 1, 2, 4, 6 and epochs 3, 5" in hint and hint in archive.notes


def test_many_steps_are_told_as_a_range() -> None:
    groups = architectures({step: {"w": (2, 2) if step < 20 else (3, 3)} for step in range(21)})
    assert in_words(groups) == "20 steps from 0 to 19 and step 20"
