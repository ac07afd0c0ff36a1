"""Records and layouts come back from JSON as they were."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.archive.recipes import Dense, LowRankProduct, Merged
from pipeline.archive.types import FileStamp, Layout, MatrixSpec, Problem, TensorHeader, Unmeasured
from pipeline.store.documents import decode, encode
from pipeline.store.records import (
    Alias,
    CheckpointRecord,
    Container,
    RunRecord,
    layout_from_json,
    layout_to_json,
)


def through_disk(data: dict[str, object]) -> dict[str, object]:
    return decode(encode(data, Path("x")), Path("x"))


def test_a_run_record_comes_back() -> None:
    problem = Problem("a.pt", "truncated", "w", "copy it again")
    record = RunRecord("a/b", "base", True, "a@3", "given", ({"step": 3, "loss": float("inf")},), "/x", (problem,))
    assert RunRecord.from_json(through_disk(record.to_json())) == record


def test_a_checkpoint_record_comes_back() -> None:
    stamp = FileStamp("a/model.safetensors", 10**12, 1_700_000_000_123_456_789)
    record = CheckpointRecord(
        run="a",
        step=3,
        revision=2,
        layout="c" * 32,
        digests=("a" * 32, None, "b" * 32),
        places=(Container("array", "tensors", (0,)), Container("pack", "p", (2,), (64,), (16,))),
        files=(stamp,),
        source="/archive/a",
        format="safetensors",
        step_source="metadata",
        kind="adapter",
        config={"time_step_limit": [0.0, float("inf")]},
        adapter={"r": 8},
        problems=(Problem("a", "bad"),),
        source_gone=True,
        aliases=(Alias("/archive/root", (stamp, stamp)),),
        ingested="2026-01-01T00:00:00",
    )
    assert CheckpointRecord.from_json(through_disk(record.to_json())) == record


def test_a_layout_comes_back_with_every_kind_of_recipe() -> None:
    dense = Dense("w", (("reshape", 3, 4, 5), ("select", 0, 1), ("permute", 1, 0), ("slice", 0, 0, 2, 1)))
    product = LowRankProduct(Dense("b"), Dense("a"), 0.3)
    layout = Layout(
        (TensorHeader("w", "bfloat16", (12, 5), 120), TensorHeader("s", "float32", (), 4)),
        (
            MatrixSpec("m", (5, 2), dense, 3, "q", "weight", "bfloat16", "in_out"),
            MatrixSpec("d", (5, 2), product, None, "linear", "delta"),
            MatrixSpec("e", (5, 2), Merged(dense, product)),
        ),
        (Unmeasured("s", "0-D"),),
    )
    assert layout_from_json(json.loads(json.dumps(layout_to_json(layout)))) == layout
