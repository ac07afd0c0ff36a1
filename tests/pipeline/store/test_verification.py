"""A changed byte anywhere in a store is found, and named as a person knows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from analyzers.errors import StoreError
from pipeline.archive.types import Problem
from pipeline.store import Store, ingest_checkpoint, verify
from pipeline.store.documents import FILE
from pipeline.store.packs import pack_index
from tests.pipeline.store.samples import MemoryArchive, bits, checkpoint_of, files_under, layout_of, put

RNG = np.random.default_rng(0)
TENSORS = {"layers.0.weight": RNG.standard_normal((400, 400)), "norm": RNG.standard_normal(50), "scale": np.array(2.0)}


@pytest.fixture
def filled(store: Store) -> Store:
    put(store, TENSORS, run="grok", step=30)
    store.statistic("s").write([("a" * 32, {"sigma": np.arange(50.0), "n": np.int64(3)}), ("b" * 32, "no entries")])
    return store


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def test_a_sound_store_has_no_problems_and_tells_its_progress(filled: Store) -> None:
    told: list[tuple[str, int]] = []
    assert verify(filled, lambda *what: told.append(what)) == []
    assert sum(nbytes for _, nbytes in told) >= sum(value.nbytes for value in TENSORS.values())


def test_a_flipped_byte_in_a_tensor_names_tensor_run_step_and_file(filled: Store) -> None:
    (chunk,) = (filled.path / "tensors").glob("*/c/0/0")
    flip(chunk)
    (problem,) = verify(filled)
    assert problem.tensor == "layers.0.weight (run grok, step 30)"
    assert str(chunk) in problem.reason and "damaged" in problem.reason
    assert "--rehash" in problem.hint


def test_a_flipped_byte_in_a_pack_names_what_lies_there(filled: Store) -> None:
    (chunk,) = (filled.path / "packs").glob("*/c/0")
    flip(chunk)
    assert {problem.tensor for problem in verify(filled)} == {
        "norm (run grok, step 30)",
        "scale (run grok, step 30)",
    }


def test_a_flipped_byte_in_stored_results_names_the_batch(filled: Store) -> None:
    (chunk,) = (filled.path / "statistics" / "s").glob("*/float64/c/0")
    flip(chunk)
    (problem,) = verify(filled)
    assert str(chunk) in problem.reason and "analyze" in problem.hint


def everything(store: Store) -> dict[object, object]:
    """All that can be read of a store."""
    (checkpoint,) = store.checkpoints("grok")
    seen: dict[object, object] = {"record": checkpoint, "matrices": store.matrices(checkpoint)}
    seen |= {name: bits(store.read_tensor(digest or "")) for name, digest in store.digests(checkpoint).items()}
    for key, value in store.statistic("s").read(["a" * 32, "b" * 32]).items():
        seen[key] = value if isinstance(value, str) else {name: bits(array) for name, array in value.items()}
    return seen


@pytest.mark.parametrize("at", [0.3, 0.7, 0.97])
def test_a_flipped_byte_in_any_file_is_noticed_unless_it_means_nothing(filled: Store, at: float) -> None:
    """A space in an array's metadata, or its compression level, may change: everything is still read as it was."""
    before = everything(filled)
    noticed = 0
    for path in files_under(filled.path):
        whole = path.read_bytes()
        flip(path, at)
        pack_index.cache_clear()
        try:
            problems = verify(Store.open(filled.path))
        except StoreError:
            assert path == filled.path / FILE, "only the root's document keeps the store from being opened"
            problems = [Problem(str(path), "cannot be opened")]
        assert problems or everything(Store.open(filled.path)) == before, path
        noticed += bool(problems)
        path.write_bytes(whole)
    assert noticed > 10


def test_what_is_missing_is_named(filled: Store) -> None:
    (array,) = (p for p in (filled.path / "tensors").iterdir() if p.name != FILE)
    shutil.rmtree(array)
    (problem,) = verify(Store.open(filled.path))
    assert problem.tensor == "layers.0.weight (run grok, step 30)" and "missing" in problem.reason
    (layout,) = (p for p in (filled.path / "layouts").iterdir() if p.name != FILE)
    shutil.rmtree(layout)
    assert any("layout" in problem.reason for problem in verify(Store.open(filled.path)))


def test_a_missing_chunk_is_named(filled: Store) -> None:
    (chunk,) = (filled.path / "tensors").glob("*/c/0/0")
    chunk.unlink()
    (problem,) = verify(filled)
    assert str(chunk) in problem.reason and "missing" in problem.reason


def test_what_does_not_belong_is_named(filled: Store) -> None:
    (filled.path / "runs" / "notes").mkdir()
    (problem,) = verify(filled)
    assert problem.path.endswith("runs/notes")


@pytest.mark.parametrize("room", ["tensors", "packs"])
def test_the_way_out_that_verify_names_mends_the_store(filled: Store, room: str) -> None:
    (damaged,) = (folder for folder in (filled.path / room).iterdir() if folder.name != FILE)
    flip(next(path for path in damaged.rglob("*") if path.is_file() and path.name != FILE))
    assert all("--rehash" in problem.hint for problem in verify(filled))
    shutil.rmtree(damaged)
    pack_index.cache_clear()  # as in the next command
    store = Store.open(filled.path, "a")
    checkpoint = checkpoint_of(TENSORS, "grok", 30)
    archive = MemoryArchive(TENSORS)
    record = ingest_checkpoint(store, checkpoint, layout_of(TENSORS), rehash=True, open_tensors=archive)
    assert record.revision == 0
    assert verify(store) == []
    assert all((store.path / "packs" / place.name).exists() for place in record.places if place.kind == "pack")
