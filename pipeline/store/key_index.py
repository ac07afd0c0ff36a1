"""Content keys by number: hundreds of thousands of keys in 30 bytes each, where a dict of strings takes 200.

index = KeyIndex()
row = index.add(key)        # 0, 1, 2, … in the order in which keys are first added
index.get(key), index.key(row)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import blake3
import numpy as np

DIGEST_BYTES = 16
_DIGITS = 2 * DIGEST_BYTES
_FEWEST = 64
_PAIR = struct.Struct("<QQ")


class PackedKeys(Sequence[str]):
    """Keys of 32 hex digits each, held as their bytes."""

    def __init__(self, digests: bytes) -> None:
        self.digests = digests

    def __len__(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    def __getitem__(self, at):  # type: ignore[no-untyped-def]  # `Sequence` overloads it for slices
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        row = range(len(self))[at]
        return self.digests[DIGEST_BYTES * row : DIGEST_BYTES * (row + 1)].hex()

    def __iter__(self) -> Iterator[str]:
        text = self.digests.hex()
        return (text[at : at + _DIGITS] for at in range(0, len(text), _DIGITS))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none


def packed(joined: str, length: int) -> Sequence[str]:
    """Keys of one length that stand in one string, packed where they are such as `keys.key` makes."""
    digests = _from_hex(joined) if length == _DIGITS and len(joined) % length == 0 else None
    if digests is not None:
        return PackedKeys(digests)
    return tuple(joined[at : at + length] for at in range(0, len(joined), length))


class KeyIndex:
    """Keys and their rows: a hash table with open addressing in two arrays, the digests being their own hashes."""

    def __init__(self) -> None:
        self._count = 0
        self._texts: dict[int, str] = {}  # rows of keys that are no 32 hex digits
        self._digests = np.empty((0, 2), dtype="<u8")
        self._allot(_FEWEST)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return map(self.key, range(self._count))

    def key(self, row: int) -> str:
        """The key of a row."""
        text = self._texts.get(row) if self._texts else None
        return _PAIR.pack(self._flat[2 * row], self._flat[2 * row + 1]).hex() if text is None else text

    def get(self, key: str) -> int | None:
        """The row of a key, None where it is not here."""
        row = self._table[self._slot(_pair(key))]
        return None if row < 0 else row

    def add(self, key: str) -> int:
        """The row of a key, a new one where it is not here."""
        pair = _pair(key)
        at = self._slot(pair)
        row = self._table[at]
        if row >= 0:
            return row
        row = self._count
        if row == len(self._digests):
            self._allot(2 * row)
            at = self._slot(pair)
        self._flat[2 * row], self._flat[2 * row + 1] = pair
        self._table[at] = row
        self._count += 1
        if not _is_digest(key):
            self._texts[row] = key
        return row

    def add_all(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) int32: the row of each key, new ones where they are not here. Quick for packed keys."""
        if not isinstance(keys, PackedKeys):
            return np.array([self.add(key) for key in keys], dtype=np.int32)
        pairs = _pairs(keys.digests)
        rows = self._rows(pairs)
        new = np.flatnonzero(rows < 0)
        if not new.size:
            return rows
        order = new[np.lexsort((pairs[new, 1], pairs[new, 0]))]  # equal ones in the order in which they come
        first_of = np.ones(len(order), dtype=bool)
        first_of[1:] = (pairs[order[1:]] != pairs[order[:-1]]).any(axis=1)
        firsts = order[first_of]
        place = np.empty(len(firsts), dtype=np.int32)
        place[np.argsort(firsts)] = np.arange(len(firsts), dtype=np.int32)
        rows[order] = self._count + place[np.cumsum(first_of) - 1]
        self._append(pairs[np.sort(firsts)])
        return rows

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """(n,) int32: the row of each key, −1 where it is not here. Quick for packed keys."""
        if isinstance(keys, PackedKeys):
            return self._rows(_pairs(keys.digests))
        return self._rows(np.array([_pair(key) for key in keys], dtype="<u8").reshape(-1, 2))

    def keys_of(self, rows: np.ndarray) -> Sequence[str]:
        """The keys of rows."""
        if self._texts:
            return [self.key(row) for row in rows.tolist()]
        return PackedKeys(self._digests[rows].tobytes())

    def _rows(self, pairs: np.ndarray) -> np.ndarray:
        found = np.full(len(pairs), -1, dtype=np.int32)
        waiting = np.arange(len(pairs))
        at = (pairs[:, 0] & self._mask).astype(np.int64)
        while waiting.size:
            row = self._slots[at]
            there = row >= 0
            same = there & (self._digests[row] == pairs[waiting]).all(axis=1)
            found[waiting[same]] = row[same]
            further = there & ~same
            waiting, at = waiting[further], (at[further] + 1) & int(self._mask)
        return found

    def _append(self, pairs: np.ndarray) -> None:
        """Adds pairs that are not here, each once."""
        first, self._count = self._count, self._count + len(pairs)
        if self._count > len(self._digests):
            count, self._count = self._count, first
            self._allot(max(count, 2 * len(self._digests)))
            self._count = count
        self._digests[first : self._count] = pairs
        self._place(np.arange(first, self._count, dtype=np.int32))

    def _allot(self, rows: int) -> None:
        """Room for so many rows."""
        held, self._digests = self._digests, np.zeros((rows, 2), dtype="<u8")
        self._digests[: self._count] = held[: self._count]
        size = 1 << (2 * rows - 1).bit_length()
        self._slots = np.full(size, -1, dtype=np.int32)
        self._mask = np.uint64(size - 1)
        self._flat = self._digests.reshape(-1).data
        self._table = self._slots.data
        self._place(np.arange(self._count, dtype=np.int32))

    def _place(self, rows: np.ndarray) -> None:
        """Gives rows their slots."""
        at = (self._digests[rows, 0] & self._mask).astype(np.int64)
        while rows.size:
            free = self._slots[at] < 0
            self._slots[at[free]] = rows[free]  # of several rows that want one slot, one gets it
            left = self._slots[at] != rows
            rows, at = rows[left], (at[left] + 1) & int(self._mask)

    def _slot(self, pair: tuple[int, int]) -> int:
        """Where a key is, or would be."""
        first, second = pair
        table, flat, last = self._table, self._flat, len(self._table) - 1
        at = first & last
        while (row := table[at]) >= 0 and (flat[2 * row] != first or flat[2 * row + 1] != second):
            at = (at + 1) & last
        return at


def _pairs(digests: bytes) -> np.ndarray:
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def _pair(key: str) -> tuple[int, int]:
    digest = _from_hex(key) if len(key) == _DIGITS else None
    first, second = _PAIR.unpack(digest or blake3.blake3(key.encode("utf-8", "surrogatepass")).digest(DIGEST_BYTES))
    return first, second


def _is_digest(key: str) -> bool:
    return len(key) == _DIGITS and _from_hex(key) is not None


def _from_hex(text: str) -> bytes | None:
    """The bytes that hex digits stand for; None for what `bytes.hex` would not write."""
    try:
        digests = bytes.fromhex(text)
    except ValueError:
        return None
    return digests if digests.hex() == text else None
