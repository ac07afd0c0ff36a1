"""The cache of intermediates: bounded, shared, and never the only place of a result."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch

import pipeline.store.cache as module
from pipeline.store.cache import DiskCache, cache_path


def entry(value: float, count: int = 1000) -> dict[str, torch.Tensor]:
    return {"U": torch.full((count // 10, 10), value, dtype=torch.float64), "S": torch.full((3,), value)}


def never() -> dict[str, torch.Tensor]:
    raise AssertionError("it is in the cache")


def test_an_entry_is_made_once_and_read_back_exactly(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "S.zarr.cache", 10**6)
    made = {"U": torch.randn(5, 3, dtype=torch.float32).t(), "h": torch.randn(4).to(torch.bfloat16)}
    assert cache("svd", "key", lambda: made) is made
    again = DiskCache(tmp_path / "S.zarr.cache", 10**6)("svd", "key", never)
    assert again.keys() == made.keys()
    assert all(torch.equal(again[name], made[name]) and again[name].dtype == made[name].dtype for name in made)


def test_names_and_keys_are_told_apart(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10**6)
    pairs = [("a", "b"), ("b", "a"), ("a/b", ""), ("a-b", ""), ("../x", "memory:1")]
    for number, (name, key) in enumerate(pairs):
        cache(name, key, lambda number=number: entry(number))  # type: ignore[misc]  # bound now
    for number, (name, key) in enumerate(pairs):
        assert cache(name, key, never)["S"][0] == number
    assert {path.parent for path in tmp_path.rglob("*.safetensors")} == {tmp_path}


def test_the_least_recently_used_go_first_and_the_bound_holds(tmp_path: Path) -> None:
    size = 8 * 1000 + 12
    cache = DiskCache(tmp_path, 3 * (size + 500))  # 500: the file's header
    now = time.time_ns()
    for number in range(3):
        cache("svd", str(number), lambda number=number: entry(number))  # type: ignore[misc]  # bound now
        os.utime(cache.path("svd", str(number)), ns=(now, now - (3 - number) * 10**9))
    cache("svd", "0", never)  # used just now
    cache("svd", "3", lambda: entry(3))
    assert [cache.path("svd", str(n)).exists() for n in range(4)] == [True, False, True, True]
    assert cache.nbytes() <= cache.max_bytes


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "c", 100)
    assert cache("svd", "k", lambda: entry(1))["S"][0] == 1
    assert cache.nbytes() == 0


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10**6)
    cache("svd", "k", lambda: entry(1))
    cache.path("svd", "k").write_bytes(b"half")
    assert cache("svd", "k", lambda: entry(2))["S"][0] == 2
    assert cache("svd", "k", never)["S"][0] == 2


def test_a_small_entry_is_read_from_memory_while_its_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DiskCache(tmp_path, 10**6)
    cache("svd", "k", lambda: entry(1))
    cache("svd", "large", lambda: entry(1, 10**5))
    read: list[Path] = []
    read_entry = module.read_entry
    monkeypatch.setattr(module, "read_entry", lambda path: read.append(path) or read_entry(path))
    cache("svd", "k", never)["U"].zero_()
    assert cache("svd", "k", never)["U"].eq(1).all(), "each reader owns what it reads"
    assert read == []
    cache("svd", "large", never)
    module.forget()
    cache("svd", "k", never)
    assert [path.name for path in read] == [cache.path("svd", name).name for name in ("large", "k")]
    cache.clear()
    assert cache("svd", "k", lambda: entry(2))["S"][0] == 2


def test_a_folder_that_cannot_be_written_costs_the_saving_and_not_the_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file", 10**6)
    assert cache("svd", "k", lambda: entry(1))["S"][0] == 1
    assert "cannot store" in caplog.text


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10**6)
    with pytest.raises(RuntimeError, match="no convergence"):
        cache("svd", "k", lambda: (_ for _ in ()).throw(RuntimeError("no convergence")))
    assert cache("svd", "k", lambda: entry(1))["S"][0] == 1


def test_of_several_that_want_one_entry_one_makes_it(tmp_path: Path) -> None:
    made = []

    def slow() -> dict[str, torch.Tensor]:
        made.append(1)
        time.sleep(0.2)
        return entry(1)

    threads = [threading.Thread(target=lambda: DiskCache(tmp_path, 10**6)("svd", "k", slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_an_entry_made_of_other_entries_does_not_wait_for_itself(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10**6)
    made = cache("outer", "k", lambda: {f"{n}": cache("inner", str(n), lambda: entry(1))["S"] for n in range(100)})
    assert len(made) == 100, "more inner entries than lock files"


def test_the_cache_stands_beside_the_store(tmp_path: Path) -> None:
    assert cache_path(tmp_path / "S.zarr") == tmp_path / "S.zarr.cache"
    cache = DiskCache(tmp_path, 10**6)
    cache("svd", "k", lambda: entry(1))
    cache.clear()
    assert cache.nbytes() == 0


def test_small_entries_do_not_list_the_folder_each_time_and_the_bound_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    entries = DiskCache._entries
    monkeypatch.setattr(DiskCache, "_entries", lambda self: looks.append(1) or entries(self))
    one = {"v": torch.zeros(100, dtype=torch.float32)}  # about 500 bytes with its header
    for bound, most in ((10**7, 6), (10**5, 400)):
        looks.clear()
        cache = DiskCache(tmp_path / str(bound), bound)
        for number in range(400):
            cache("leading", str(number), lambda: one)
        # 1 % of the bound is some 200 entries, or 2: two looks each, one before and one after
        assert len(looks) <= most, bound
    assert 90_000 < cache.nbytes() <= cache.max_bytes, "the smaller one is full"
    cache("leading", "399", never)


def test_whoever_shares_the_store_reads_the_entries_and_only_they_lock(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    folder.chmod(0o775)
    DiskCache(folder, 10**6)("svd", "k", lambda: entry(1))
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes[".safetensors"] == 0o664 and modes[".lock"] & 0o007 == 0
