"""Equal values are a tie only where nothing speaks against it; who is left out still is something to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.analysis.library import ingest
from pipeline.archive.recipes import Dense, LowRankProduct
from pipeline.archive.types import Checkpoint, Layout, MatrixSpec
from pipeline.store import Store, ingest_checkpoint
from pipeline.units.selection import Selection
from pipeline.units.sources import BaseReference, Sources
from tests.pipeline.store.samples import MemoryArchive, MemoryReader, checkpoint_of, header, layout_of, put


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, 4))


def names(store: Store, step: int, run: str = "run") -> list[str]:
    (one,) = (c for c in store.checkpoints(run) if c.step == step)
    return [matrix.spec.name for matrix in store.matrices(one)]


ZERO, ONE = np.zeros((6, 4)), np.ones((6, 4))


@pytest.mark.parametrize("value", [ZERO, ONE])
def test_layers_that_start_constant_are_two(store: Store, value: np.ndarray) -> None:
    put(store, {"a": value, "b": value.copy()}, step=0)
    assert names(store, 0) == ["a", "b"]


def test_a_lone_checkpoint_with_equal_content_counts_it_once(store: Store) -> None:
    put(store, {"a": noise(1), "b": noise(1)}, step=0)
    assert names(store, 0) == ["a"]


def test_experts_that_start_as_copies_and_part_later_are_all_measured(store: Store) -> None:
    put(store, {f"e{i}": noise(1) for i in range(4)}, step=0)
    assert names(store, 0) == ["e0"]
    put(store, {f"e{i}": noise(1 + i) for i in range(4)}, step=10)
    assert names(store, 0) == names(store, 10) == ["e0", "e1", "e2", "e3"]


def test_clones_of_a_tied_tensor_are_one_in_every_checkpoint_and_others_are_not(store: Store) -> None:
    for step in range(3):
        first = noise(0) if step == 0 else noise(10 + step)
        put(store, {"x": first, "y": noise(step), "z": noise(step)}, step=step)
    assert names(store, 0) == names(store, 1) == ["x", "y"]


def test_a_tie_once_broken_is_none_whatever_the_order_of_ingest(store: Store) -> None:
    put(store, {"y": noise(1), "z": noise(2)}, step=20)
    put(store, {"y": noise(1), "z": noise(1)}, step=10)
    assert names(store, 10) == ["y", "z"]


def test_matrices_tied_in_the_base_alone_are_compared_with_what_the_base_holds(store: Store) -> None:
    base = put(store, {"a": noise(1), "b": noise(1)}, run="base", step=0)
    put(store, {"a": noise(2), "b": noise(3)}, step=10)
    assert [m.spec.name for m in store.twins(base)] == ["b"]
    reference = Sources(store, Selection(bases={"run": "base@0"})).reference("run", 10, "base")
    assert isinstance(reference, BaseReference)
    assert reference.twins["b"].key == store.matrices(base)[0].key


def embeddings(tensors: Mapping[str, np.ndarray]) -> Layout:
    kinds = ("embedding", "unembedding")
    specs = tuple(MatrixSpec(name, (6, 4), Dense(name), kind=kind) for name, kind in zip(tensors, kinds, strict=True))
    return replace(layout_of(tensors), matrices=specs)


@pytest.mark.parametrize(
    ("value", "config", "expected"),
    [
        (noise(1), {}, ["embed"]),
        (ZERO, {}, ["embed", "head"]),
        (ZERO, {"tie_word_embeddings": True}, ["embed"]),
        (ZERO, {"tie_word_embeddings": False}, ["embed", "head"]),
    ],
)
def test_embedding_and_output_head(store: Store, value: np.ndarray, config: dict, expected: list[str]) -> None:
    tensors = {"embed": value, "head": value.copy()}
    checkpoint = checkpoint_of(tensors, config=config)
    ingest_checkpoint(store, checkpoint, embeddings(tensors), open_tensors=MemoryArchive(tensors))
    assert names(store, 10) == expected


def test_a_head_tied_in_one_checkpoint_stays_tied_there_when_another_unties_it(store: Store) -> None:
    for step, head in ((0, noise(1)), (10, noise(2))):
        tensors = {"embed": noise(1), "head": head}
        checkpoint = checkpoint_of(tensors, step=step)
        ingest_checkpoint(store, checkpoint, embeddings(tensors), open_tensors=MemoryArchive(tensors))
    assert (names(store, 0), names(store, 10)) == (["embed"], ["embed", "head"])


def test_what_shares_its_storage_in_the_file_is_one_even_while_it_is_zero(store: Store) -> None:
    class Sharing(MemoryReader):
        tied = (("b", "a"),)

    tensors = {"a": ZERO, "b": ZERO, "c": ZERO}

    @contextmanager
    def opened(checkpoint: Checkpoint) -> Iterator[MemoryReader]:
        yield Sharing(tensors, MemoryArchive(tensors).reads)

    ingest_checkpoint(store, checkpoint_of(tensors), layout_of(tensors), open_tensors=opened)
    assert names(store, 10) == ["a", "c"]
    assert names(Store.open(store.path), 10) == ["a", "c"]


def test_a_torch_file_tells_what_is_shared(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    shared = torch.zeros(6, 4)
    torch.save({"a.weight": shared, "b.weight": shared, "c.weight": torch.zeros(6, 4)}, tmp_path / "runs/model.pt")
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr")
    (run,) = store.runs()
    assert names(store, 0, run.id) == ["a", "c"]


def test_two_modules_whose_b_is_still_zero_are_two(store: Store) -> None:
    tensors = {"b0": np.zeros((6, 2)), "a": np.random.default_rng(0).standard_normal((2, 4)), "b1": np.zeros((6, 2))}
    specs = tuple(
        MatrixSpec(name, (6, 4), LowRankProduct(Dense(b), Dense("a"), 2.0), role="delta")
        for name, b in (("p", "b0"), ("q", "b1"))
    )
    layout = Layout(tuple(header(name, value) for name, value in tensors.items()), specs)
    ingest_checkpoint(store, checkpoint_of(tensors, kind="adapter"), layout, open_tensors=MemoryArchive(tensors))
    assert names(store, 10) == ["p", "q"]
