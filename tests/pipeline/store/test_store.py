"""What a store is, on disk and to a reader, and what is said of a path that is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from analyzers.errors import StoreError
from pipeline.store import Store
from pipeline.store.documents import FILE, replace_document
from pipeline.store.store import SCHEMA, slug
from tests.pipeline.store.samples import put


def test_importing_and_reading_the_store_needs_no_torch(store: Store) -> None:
    put(store, {"w": np.ones((4, 4))})
    code = f"""
import sys
from pipeline.store import Store, ingest_checkpoint, record_run, verify
store = Store.open({str(store.path)!r})
(checkpoint,) = store.checkpoints(store.runs()[0].id)
assert store.matrices(checkpoint) and not verify(store) and not store.statistic("any").keys()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_zarr_reader_lists_everything_without_a_warning(store: Store) -> None:
    put(store, {"large": np.ones((600, 600)), "small": np.ones((4, 4)), "scalar": np.array(1.0)})
    store.statistic("s").write([("a" * 32, {"x": np.arange(3.0)}), ("b" * 32, "no entries")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        members = dict(zarr.open_group(store.path, mode="r").members(max_depth=None))
    arrays = [name for name, member in members.items() if isinstance(member, zarr.Array)]
    assert len([name for name in arrays if name.startswith("tensors/")]) == 1
    assert len([name for name in arrays if name.startswith("packs/")]) == 1
    assert len([name for name in arrays if name.startswith("statistics/s/")]) == 1
    assert any(name.startswith("runs/") and name.endswith("/10.0") for name in members)


def test_opening_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*varve ingest"):
        Store.open(tmp_path / "S.zarr")


def test_opening_for_writing_makes_the_store(tmp_path: Path) -> None:
    assert Store.open(tmp_path / "S.zarr", "a").runs() == ()
    assert Store.open(tmp_path / "S.zarr").runs() == ()


def test_a_missing_parent_folder_is_named(tmp_path: Path) -> None:
    for make in (Store.create, lambda path: Store.open(path, "a")):
        with pytest.raises(StoreError, match=f"{tmp_path / 'no'} does not exist"):
            make(tmp_path / "no" / "S.zarr")


@pytest.mark.parametrize("mode", ["r", "a"])
def test_a_file_a_folder_and_a_foreign_zarr_are_not_stores(tmp_path: Path, mode: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    zarr.create_group(tmp_path / "foreign")
    zarr.create_array(str(tmp_path / "array"), shape=(2,), dtype="f4")
    for name in ("file", "folder", "foreign", "array"):
        with pytest.raises(StoreError, match=f"{name} .*not a varve store"):
            Store.open(tmp_path / name, mode)  # type: ignore[arg-type]  # "r" or "a"


def test_creating_over_something_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (store.path, tmp_path / "file"):
        with pytest.raises(StoreError, match="already exists"):
            Store.create(path)
    (tmp_path / "empty").mkdir()
    assert Store.create(tmp_path / "empty").runs() == ()


@pytest.mark.parametrize(("schema", "words"), [(SCHEMA + 1, "update varve"), (SCHEMA - 1, "old"), ("x", "'x'")])
def test_a_store_of_another_version_is_never_misread(store: Store, schema: object, words: str) -> None:
    replace_document(store.path, store.path, {"varve_schema": schema})
    with pytest.raises(StoreError, match=f"schema.*{words}|{words}.*schema"):
        Store.open(store.path)


def test_a_creation_that_was_killed_half_way_is_completed(store: Store) -> None:
    (store.path / FILE).unlink()
    shutil.rmtree(store.path / "runs")
    with pytest.raises(StoreError, match="not a varve store"):
        Store.open(store.path, "r")
    assert Store.open(store.path, "a").runs() == ()


def test_a_store_open_for_reading_is_not_written(store: Store) -> None:
    reader = Store.open(store.path)
    with pytest.raises(StoreError, match="mode 'a'"):
        put(reader, {"w": np.ones((2, 2))})
    with pytest.raises(StoreError, match="mode 'a'"):
        reader.statistic("s").write([("a" * 32, "no")])


def test_an_unknown_run_is_answered_with_those_there_are(store: Store) -> None:
    put(store, {"w": np.ones((2, 2))}, run="grok/dense")
    with pytest.raises(StoreError, match=r"'grok'.*grok/dense"):
        store.checkpoints("grok")


def test_run_ids_that_differ_only_where_file_systems_do_not_look_get_folders_of_their_own(store: Store) -> None:
    ids = ["A/b", "a/b", "a-b", "a b", "../a", "ä/b", ".", "a" * 200, "a" * 201, "zarr.json"]
    assert len({slug(run_id).lower() for run_id in ids}) == len(ids)
    for number, run_id in enumerate(ids):
        put(store, {"w": np.full((2, 2), number)}, run=run_id)
    assert {run.id for run in Store.open(store.path).runs()} == set(ids)
    assert {path.parent for path in (store.path / "runs").iterdir()} == {store.path / "runs"}


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that every user can reach: pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(action: object) -> None:
    """Runs without root's right to write anywhere."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        action()  # type: ignore[operator]  # a callable without arguments
    finally:
        if was_root:
            os.seteuid(0)


def test_a_read_only_folder_is_named_and_its_store_can_still_be_read(open_to_all: Path) -> None:
    store = Store.create(open_to_all / "S.zarr")
    put(store, {"w": np.ones((2, 2))})
    for path in (open_to_all, *open_to_all.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def attempt() -> None:
        with pytest.raises(StoreError, match=r"no permission.*--store"):
            Store.create(open_to_all / "T.zarr")
        with pytest.raises(StoreError, match=r"no permission.*--store"):
            Store.open(open_to_all / "S.zarr", "a")
        assert len(Store.open(open_to_all / "S.zarr").checkpoints("run")) == 1

    as_nobody(attempt)
    for path in (open_to_all, *open_to_all.rglob("*")):
        path.chmod(0o755)


def test_a_report_given_for_a_store_is_named_as_one(tmp_path: Path) -> None:
    report = tmp_path / "report.zarr"
    report.mkdir()
    (report / "zarr.json").write_text('{"attributes": {"varve_report": 1}, "node_type": "group", "zarr_format": 3}')
    with pytest.raises(StoreError, match=r"is a report, not a store.*store\.zarr"):
        Store.open(report)
