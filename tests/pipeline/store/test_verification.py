"""A changed byte anywhere in a store is found, and named as a person knows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analyzers.errors import DamageError, StoreError
from analyzers.models import Material
from analyzers.weight_spectra.statistics import Sigma
from pipeline.archive.types import Problem
from pipeline.compute.provenance import provenance
from pipeline.store import DiskCache, Store, repair, unchecked, verify
from pipeline.store.documents import FILE
from pipeline.store.given import record_materials, recorded_materials
from pipeline.store.packs import pack_index
from pipeline.store.scratch import cache_path
from pipeline.store.statistics import INPUTS
from tests.pipeline.store.samples import bits, files_under, put

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
    assert "--repair" in problem.hint


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


def ingest_again(path: Path) -> Store:
    """What the next `varve analyze` does with the same archive."""
    store = Store.open(path, "a")
    put(store, TENSORS, run="grok", step=30)
    return store


@pytest.mark.parametrize("room", ["tensors/*/c/0/0", "packs/*/c/0", "packs/*/zarr.json", "layouts/*/zarr.json"])
@pytest.mark.parametrize("how", ["flipped", "deleted"])
def test_what_is_repaired_is_read_again_without_a_new_revision(filled: Store, room: str, how: str) -> None:
    before = everything(filled)
    (file,) = filled.path.glob(room)
    flip(file) if how == "flipped" else file.unlink()
    pack_index.cache_clear()
    problems = verify(Store.open(filled.path))
    assert problems and all("--repair" in problem.hint or "delete it" in problem.hint for problem in problems)
    assert repair(filled.path)
    store = ingest_again(filled.path)
    assert verify(store) == []
    (record,) = store.checkpoints("grok")
    assert record.revision == 0 and store.damage() == ()
    again = everything(store)
    assert {k: v for k, v in again.items() if k != "record"} == {k: v for k, v in before.items() if k != "record"}


@pytest.mark.parametrize("where", ["runs/*", "runs/*/30.0", "statistics/s", "statistics/s/*-*", "materials", "."])
def test_a_damaged_document_costs_what_it_describes_and_is_repaired(filled: Store, where: str) -> None:
    record_materials(filled, [Material("probe", "texts", "0" * 32, "texts.yaml")])
    put(filled, {"w": RNG.standard_normal((3, 4))}, run="other")
    where = "materials/?*" if where == "materials" else where
    chosen = [path for path in filled.path.glob(f"{where}/zarr.json") if "other" not in str(path)]
    flip(chosen[0])
    if where != ".":
        store = Store.open(filled.path)
        assert [c.step for c in store.checkpoints("other")] == [10], "the rest is there"
        lost = {run.id for run in store.runs()} == {"other"}
        assert lost == (where == "runs/*")
        store.statistic("s").read(["a" * 32])
        recorded_materials(store)
    assert repair(filled.path)
    store = ingest_again(filled.path)
    store.statistic("s").write([("a" * 32, {"sigma": np.arange(50.0), "n": np.int64(3)}), ("b" * 32, "no entries")])
    assert verify(store) == [] and len(store.checkpoints("grok")) == 1


@pytest.mark.parametrize("where", ["runs/*", "runs/*/30.0", "statistics/s", "statistics/s/*-*", "layouts/*"])
def test_a_document_that_was_deleted_is_named_with_its_repair_and_costs_no_more(filled: Store, where: str) -> None:
    (document,) = filled.path.glob(f"{where}/zarr.json")
    document.unlink()
    problems = verify(Store.open(filled.path))
    assert problems and all("--repair" in problem.hint for problem in problems), problems
    assert repair(filled.path)
    store = ingest_again(filled.path)
    assert verify(store) == [] and [record.id for record in store.runs()] == ["grok"]
    assert len(store.statistic("s").keys()) == (0 if where == "statistics/s/*-*" else 2)


def test_one_damaged_chunk_of_a_batch_costs_the_results_that_lie_in_it(filled: Store) -> None:
    table = filled.statistic("t")
    table.write([("1" * 32, {"x": np.arange(2.0)}), ("2" * 32, {"n": np.int64(2)}), ("3" * 32, "none")])
    (chunk,) = filled.path.glob("statistics/t/*/float64/c/0")
    flip(chunk)
    fresh = Store.open(filled.path)
    found = fresh.statistic("t").read([n * 32 for n in "123"])
    assert sorted(found) == ["2" * 32, "3" * 32]
    (problem,) = fresh.damage()
    assert "--repair" in problem.hint
    repair(filled.path)
    assert fresh.statistic("t").keys() == {"2" * 32, "3" * 32}
    assert verify(fresh) == []


def test_results_that_were_computed_from_damaged_ones_are_found_and_removed(filled: Store) -> None:
    """What reads a chunk in place of another one, with a checksum that fits, is not told by it."""
    first, other = filled.statistic("first"), filled.statistic("other")
    for table, value in ((first, 1.0), (other, 2.0)):
        table.write([("1" * 32, {"x": np.full(9, value)})], provenance={INPUTS: {}})
    second, third = filled.statistic("second"), filled.statistic("a_third")
    read = first.digests(list(first.lookup(["1" * 32]).values()))
    second.write([("2" * 32, {"y": np.float64(3)})], provenance={INPUTS: read})
    second.write([("4" * 32, {"y": np.float64(3)})], provenance={INPUTS: {}})
    made = second.digests(list(second.lookup(["2" * 32]).values()))
    third.write([("3" * 32, {"y": np.float64(3)})], provenance={INPUTS: made})
    assert verify(filled) == []
    chunks = [next(filled.path.glob(f"statistics/{name}/*/float64/c/0")) for name in ("other", "first")]
    shutil.copyfile(*chunks)
    found = {Path(problem.path).parts[-3] for problem in verify(Store.open(filled.path))}
    assert found == {"first", "second", "a_third"}
    repair(filled.path)
    fresh = Store.open(filled.path)
    assert verify(fresh) == []
    kept = {name: fresh.statistic(name).keys() for name in ("first", "second", "a_third", "other")}
    assert kept == {"first": set(), "second": {"4" * 32}, "a_third": set(), "other": {"1" * 32}}


def test_what_is_made_of_results_that_were_not_checked_counts_as_not_checked(filled: Store) -> None:
    old, new = filled.statistic("s"), filled.statistic("new")
    new.write([("1" * 32, {"x": np.float64(1)})], provenance={INPUTS: {}})
    assert old.digests(list(old.lookup(["a" * 32]).values())) is None
    (name,) = new.digests(list(new.lookup(["1" * 32]).values())) or {}
    assert (filled.path / "statistics" / name / FILE).exists()
    assert INPUTS not in provenance(Sigma(), "cpu", None)
    assert provenance(Sigma(), "cpu", {name: "0"})[INPUTS] == {name: "0"}


def test_results_of_a_version_that_checked_nothing_are_reported_and_removed_on_request(filled: Store) -> None:
    filled.statistic("new").write([("1" * 32, {"x": np.float64(1)})], provenance={INPUTS: {}})
    assert {name: count for name, (count, _) in unchecked(filled).items()} == {"s": 2}
    repair(filled.path)
    assert len(Store.open(filled.path).statistic("s").keys()) == 2, "only on request"
    assert any("2 results removed" in line for line in repair(filled.path, discard_unchecked=True))
    fresh = Store.open(filled.path)
    assert unchecked(fresh) == {} and verify(fresh) == [] and fresh.statistic("new").keys() == {"1" * 32}


@pytest.mark.parametrize("where", ["runs/*/30.0", "statistics/s/*-*", "runs/grok*", "statistics/s"])
def test_what_was_deleted_is_noticed_and_noted(filled: Store, where: str) -> None:
    (folder,) = filled.path.glob(where)
    shutil.rmtree(folder)
    deleted = {problem.path for problem in verify(Store.open(filled.path)) if "was deleted" in problem.reason}
    assert str(folder) in deleted
    repair(filled.path)
    assert verify(Store.open(filled.path)) == []


def test_what_varve_removes_itself_is_no_deletion(filled: Store) -> None:
    table = filled.statistic("s")
    for at in range(3):
        table.write([(f"{at:032x}", {"x": np.float64(at)})])
    assert table.compact(2) == 4
    assert verify(filled) == []


def test_a_damaged_entry_of_the_cache_is_found_and_removed(filled: Store) -> None:
    import torch

    cache = DiskCache(cache_path(filled.path), 10**6)
    cache("svd", "k", lambda: {"u": torch.arange(100.0)})
    (entry,) = cache.folder.glob("*.safetensors")
    flip(entry, 0.9)
    (problem,) = verify(filled)
    assert problem.path == str(entry)
    repair(filled.path)
    assert verify(filled) == [] and not entry.exists()


def test_a_store_without_digests_of_its_arrays_is_read_and_its_tensors_are_checked(filled: Store) -> None:
    """As the first stores are."""
    before = everything(filled)
    for metadata in [*filled.path.glob("tensors/*/zarr.json"), *filled.path.glob("packs/*/zarr.json")]:
        document = json.loads(metadata.read_text())
        document["attributes"].pop("document_digest")
        metadata.write_text(json.dumps(document))
    shutil.rmtree(filled.path / "journal")
    pack_index.cache_clear()
    old = Store.open(filled.path)
    assert everything(old) == before and verify(old) == []
    (metadata,) = filled.path.glob("packs/*/zarr.json")
    metadata.write_text(metadata.read_text().replace('"offsets": [0,', '"offsets": [8,'))
    pack_index.cache_clear()
    with pytest.raises(DamageError, match="does not have the bytes"):
        everything(Store.open(filled.path))


def test_a_process_that_lives_on_reads_what_was_repaired(filled: Store) -> None:
    """A worker of a cluster keeps the index of a store: a pack that a repair removed is looked for again."""
    living = Store.open(filled.path)
    before = everything(living)
    (chunk,) = filled.path.glob("packs/*/c/0")
    flip(chunk)
    repair(filled.path)
    ingest_again(filled.path)
    assert {k: v for k, v in everything(living).items() if isinstance(k, str) and k in ("norm", "scale")} == {
        name: before[name] for name in ("norm", "scale")
    }
