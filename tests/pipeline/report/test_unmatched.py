"""What most matrices of a run have in their base, and some do not: one note says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import pipeline


def _model(path: Path, layers: int, head: int = 4) -> None:
    path.parent.mkdir(parents=True)
    named = {f"layers.{n}.fc.weight": torch.randn(6, 5) for n in range(layers)}
    save_file({**named, "lm_head.weight": torch.randn(head, 6)}, path)


def _notes(root: Path) -> Sequence[str]:
    store = pipeline.ingest(root, root / "S.zarr", name="zoo")
    tree = pipeline.assemble(store, ("intruder_dimensions",))
    if "contents" not in tree["archive"].children:
        return ()
    rows = tree["archive/contents"].to_dataset()
    return [
        str(text) for text, code in zip(rows["text"].values, rows["code"].values, strict=True) if code == "unmatched"
    ]


@pytest.mark.parametrize(
    ("in_base", "in_runs", "expected"),
    [
        (5, 7, "2 matrices are not compared (layers.5.fc, layers.6.fc): zoo/base@0, which it is compared with, has no"),
        (7, 5, "2 matrices are not compared (layers.5.fc, layers.6.fc): zoo/base@0 has this matrix"),
    ],
)
def test_a_base_with_fewer_or_more_layers_gets_one_note_for_all_runs_and_steps(
    tmp_path: Path, in_base: int, in_runs: int, expected: str
) -> None:
    _model(tmp_path / "base" / "model.safetensors", in_base)
    for run in ("a", "b"):
        for step in (10, 20):
            _model(tmp_path / run / f"step_{step}" / "model.safetensors", in_runs)
    (note,) = _notes(tmp_path)
    assert note.startswith("zoo/a, zoo/b: ") and expected in note


def test_a_base_with_the_same_matrices_gets_none(tmp_path: Path) -> None:
    _model(tmp_path / "base" / "model.safetensors", 3)
    _model(tmp_path / "a" / "step_10" / "model.safetensors", 3)
    assert not _notes(tmp_path)


def test_another_head_gets_one_note_that_names_both_shapes(tmp_path: Path) -> None:
    _model(tmp_path / "base" / "model.safetensors", 3)
    _model(tmp_path / "a" / "step_10" / "model.safetensors", 3, head=9)
    (note,) = _notes(tmp_path)
    assert note == (
        "zoo/a: 1 matrix is not compared (lm_head): its shape is (9, 6), but (4, 6) in zoo/base@0, its reference"
    )
