"""The evictable cache of large intermediates beside the store (a base's singular vectors), bounded in bytes.

Safe with several processes: an entry is one file, renamed into place, and the least recently used go first. Each
carries a checksum of its tensors; one that does not agree with it, or has none, is made again.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import blake3
import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file

from pipeline.archive.recipes import digest
from pipeline.archive.text import encodable
from pipeline.store.recent import Recent
from pipeline.store.scratch import cache_path, open_lock

_LOG = logging.getLogger(__name__)
_STRIPES = 64
_SUFFIX = ".safetensors"
_CHECKSUM = "checksum"
_MAX_HEADER = 2**24
_UNSEEN = 0.01
"""Share of the bound that a process writes before it looks again at what all of them have: listing tens of thousands of
small entries for each new one would cost more than they save."""
_SMALL = 2**17
"""Bytes of an entry up to which opening its file costs more than its share of what is kept in memory."""
_KEPT_BYTES = 48 * 2**20


@dataclass(frozen=True)
class _SmallEntries:
    """The tensors of an entry that was written, or read and checked, by this process, and the bytes of its file."""

    tensors: Mapping[str, torch.Tensor]
    nbytes: int


_kept: Recent[_SmallEntries] = Recent(_KEPT_BYTES, lambda small: small.nbytes + 2000)


def forget() -> None:
    """Drops every entry that is kept in memory."""
    _kept.forget()


class DiskCache:
    """`analyzers.contract.Cache` on disk: `cache(name, key, make)` reads an entry, or makes and keeps it.

    An entry larger than `max_bytes` is not kept; several processes at once may exceed it by 1 % each. Of several
    workers that want the same entry one makes it. A full or read-only disk costs the saving, not the result, and is
    logged.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._held = threading.local()
        self._total, self._unseen = 0, max_bytes  # bytes at the last look and since, and those written since

    def __call__(
        self, name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> Mapping[str, torch.Tensor]:
        """The tensors under (name, key)."""
        path = self.path(name, key)
        found = self._read(path)
        if found is not None:
            return found
        with self._turn(path):
            found = self._read(path)  # somebody else may have made it while this one waited
            if found is None:
                found = make()
                self._keep(path, found)
        return found

    def path(self, name: str, key: str) -> Path:
        """The file of an entry."""
        return self.folder / _file_name(name, key)

    def nbytes(self) -> int:
        """Bytes that the cache takes."""
        return sum(size for _, size, _ in self._entries())

    def clear(self) -> None:
        """Removes every entry."""
        for _, _, path in self._entries():
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> Mapping[str, torch.Tensor] | None:
        try:
            tensors = _read_small(path) or read_entry(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (SafetensorError, OSError) as error:
            _LOG.warning("cache entry %s is damaged (%.200s) and is computed again", path, error)
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # evicted meanwhile, or read-only: only the order of eviction suffers
            os.utime(path)
        return tensors

    def _keep(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size > self.max_bytes:
            return
        made = path.with_name(f"{secrets.token_hex(8)}.partial")
        try:
            self.folder.mkdir(exist_ok=True)
            looked = self._make_room(size)
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            metadata = {_CHECKSUM: _checksum(path, contiguous)}
            if _is_text(made):
                save_file(contiguous, made, metadata)
            else:
                made.write_bytes(save(contiguous, metadata))
            made.chmod(self.folder.stat().st_mode & 0o666)  # for those who share the store; the library gives 600
            status = made.stat()
            written = status.st_size
            made.replace(path)
            _remember(path, contiguous, status)
            self._total, self._unseen = self._total + written, self._unseen + written
            if looked:
                self._evict(self.max_bytes)  # others may have written at the same time
        except (OSError, SafetensorError) as error:
            _LOG.warning("cannot store %s in the cache: %s; it will be recomputed when needed", path, error)
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Makes room for `size` bytes where they may be too many; whether the folder was looked at."""
        share = int(_UNSEEN * self.max_bytes)
        if self._unseen + size <= share and self._total + size <= self.max_bytes:
            return False
        full = self._total + size > self.max_bytes
        self._evict(self.max_bytes - (max(size, share) if full else size))
        return True

    def _evict(self, allowed: int) -> None:
        """Removes the least recently used entries until `allowed` bytes are left."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= allowed:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._total, self._unseen = total, 0

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(mtime_ns, bytes, path) of every file, half-written ones included."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.suffix in (_SUFFIX, ".partial"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        return found

    @contextlib.contextmanager
    def _turn(self, path: Path) -> Iterator[None]:
        """One maker at a time per entry (striped over a few lock files; the lock dies with its owner).

        A thread that already makes an entry takes no second lock, so no two can wait for each other.
        """
        if getattr(self._held, "lock", False):
            yield
            return
        try:
            self.folder.mkdir(exist_ok=True)
            stripe = int(digest(path.name), 16) % _STRIPES
            descriptor = open_lock(self.folder / f"{stripe}.lock")
        except OSError:  # a read-only folder: everybody makes their own
            yield
            return
        self._held.lock = True
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            self._held.lock = False
            os.close(descriptor)


def entries_of(store: Path) -> list[Path]:
    """The entries of a store's cache."""
    return sorted(cache_path(store).glob(f"*{_SUFFIX}"))


@functools.lru_cache(maxsize=2**14)
def _file_name(name: str, key: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]
    return f"{readable}-{digest([name, key])}{_SUFFIX}"


def _read_small(path: Path) -> Mapping[str, torch.Tensor] | None:
    """A copy of an entry of few bytes, read once for all that ask for it while its file is there; None of a larger one.

    What an entry holds never changes, so that a file of another inode is the same entry, made again.
    """
    status = path.stat()
    if status.st_size > _SMALL:
        return None
    small = _kept.peek((path, status.st_ino, status.st_size))
    return _remember(path, read_entry(path), status) if small is None else _copies(small.tensors)


def _remember(path: Path, tensors: Mapping[str, torch.Tensor], status: os.stat_result) -> Mapping[str, torch.Tensor]:
    """Keeps copies of a small entry, which its file holds as well; returns the tensors."""
    if status.st_size <= _SMALL:
        _kept.put((path, status.st_ino, status.st_size), _SmallEntries(_copies(tensors), status.st_size))
    return tensors


def _copies(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def read_entry(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of an entry; SafetensorError unless they give the checksum that was written with them."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, _MAX_HEADER))
    tensors = load_file(path) if _is_text(path) else load(path.read_bytes())
    noted = json.loads(header).get("__metadata__") or {}  # the library has accepted the header
    if noted.get(_CHECKSUM) != _checksum(path, tensors):
        raise SafetensorError("its content has changed since it was written")
    return tensors


def _checksum(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """blake3 over the entry's file name and its tensors' names, dtypes, shapes and bytes."""
    running = blake3.blake3(path.name.encode())
    for name, tensor in sorted(tensors.items()):
        running.update(f"\0{name}\0{tensor.dtype}{list(tensor.shape)}\0".encode())
        running.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return running.hexdigest(length=16)


def _is_text(path: Path) -> bool:
    """Whether the safetensors library can open the path: it knows none that is not UTF-8."""
    return encodable(str(path)) == str(path)
