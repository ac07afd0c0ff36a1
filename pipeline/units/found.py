"""The units of one statistic as arrays: some 70 bytes for each, where objects and dicts of them take 700.

A plan of 6 runs of 100 checkpoints of 300 matrices has 2.4 million units.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Generic, TypeVar, overload

import numpy as np

from analyzers.contract import Statistic
from pipeline.store.key_index import DIGEST_BYTES, KeyIndex
from pipeline.units.addresses import MatrixRef, Member, Skip, UnitRef

T = TypeVar("T", bound=Hashable)
Place = tuple[str | None, int | None, str | None]
"""(run, step, matrix) of a unit, None where its scope has none."""
Inputs = tuple[tuple[str, str], ...]
"""(statistic name, key) of input statistics."""


class _Numbered(Generic[T]):
    """Values and their numbers, in the order in which they first came."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[T, int] = {}

    def add(self, value: T) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def get(self, value: T) -> int:
        return self._numbers.get(value, -1)


class Places(Mapping[Place, str]):
    """Place → key, in the order in which they were added. A place is added once."""

    def __init__(self, index: KeyIndex) -> None:
        self.index = index
        self.rows = array("i")
        """The row of each place's key."""
        self._names = _Numbered[str | None]()
        self._name_at = array("i")
        self._checkpoints: list[tuple[str | None, int | None]] = []
        self._first: list[int] = []  # a checkpoint's places follow one another; one that comes again has two entries
        self._spans: dict[tuple[str | None, int | None], list[int]] = {}
        self._orders: dict[bytes, Mapping[int, int]] = {}

    def add(self, place: Place, key: str) -> None:
        """Adds a place that is not here."""
        run, step, name = place
        if not self._checkpoints or self._checkpoints[-1] != (run, step):
            self._spans.setdefault((run, step), []).append(len(self._checkpoints))
            self._checkpoints.append((run, step))
            self._first.append(len(self.rows))
        self._name_at.append(self._names.add(name))
        self.rows.append(self.index.add(key))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Place]:
        names = self._names.values
        for span, (run, step) in enumerate(self._checkpoints):
            for at in self._range(span):
                yield run, step, names[self._name_at[at]]

    def __getitem__(self, place: Place) -> str:
        run, step, name = place
        wanted = self._names.get(name)
        for span in self._spans.get((run, step), ()):
            within = self._range(span)
            offset = self._offsets(within).get(wanted)
            if offset is not None:
                return self.index.key(self.rows[within[offset]])
        raise KeyError(place)

    def of(self, run: str | None, step: int | None) -> dict[str | None, str]:
        """The keys of one checkpoint by the matrix's name."""
        names = self._names.values
        spans = self._spans.get((run, step), ())
        return {names[self._name_at[at]]: self.index.key(self.rows[at]) for span in spans for at in self._range(span)}

    def _offsets(self, within: range) -> Mapping[int, int]:
        """Where each name stands among those of a checkpoint: the same in most checkpoints."""
        order = self._name_at[within.start : within.stop].tobytes()
        if order not in self._orders:
            self._orders[order] = {number: offset for offset, number in enumerate(self._name_at[at] for at in within)}
        return self._orders[order]

    def _range(self, span: int) -> range:
        last = self._first[span + 1] if span + 1 < len(self._first) else len(self.rows)
        return range(self._first[span], last)


class Addresses(Mapping[str, UnitRef]):
    """Key → address. That of a single matrix or pair is held as what it is made of, and made when it is asked for.

    Without `every`, such units have no address: a report needs their keys alone.
    """

    def __init__(self, statistic: Statistic, index: KeyIndex, every: bool) -> None:
        self.index = index
        self.every = every
        self._statistic = statistic
        self._whole: dict[int, UnitRef] = {}
        self._checkpoints = _Numbered[tuple[str, int]]()
        self._checkpoint_at = array("i")
        self._name_at = array("i")
        self._names = _Numbered[str]()
        self._sources: list[MatrixRef | None] = []
        self._references: list[MatrixRef | None] = []
        self._inputs: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self._input_keys = bytearray()

    def __len__(self) -> int:
        return len(self.index) if self.every else len(self._whole)

    def __iter__(self) -> Iterator[str]:
        return iter(self.index) if self.every else map(self.index.key, self._whole)

    def __contains__(self, key: object) -> bool:
        row = self.index.get(key) if isinstance(key, str) else None
        return row is not None and (self.every or row in self._whole)

    def __getitem__(self, key: str) -> UnitRef:
        row = self.index.get(key)
        if row is None or not (self.every or row in self._whole):
            raise KeyError(key)
        return self.at(row)

    def at(self, row: int) -> UnitRef:
        """The address of the unit whose key has this row."""
        whole = self._whole.get(row)
        if whole is not None:
            return whole
        run, step = self._checkpoints.values[self._checkpoint_at[row]]
        inputs, reference_inputs = self._inputs_at(row)
        member = Member(run, step, self._sources[row], self._references[row], inputs, reference_inputs)
        name = self._names.values[self._name_at[row]]
        return UnitRef(self._statistic, run, step, name, self.index.key(row), (member,))

    def add(self, address: UnitRef) -> None:
        """Keeps an address whose key is not here, as it is."""
        row = self.index.add(address.key)
        self._whole[row] = address
        self._columns(row, -1, -1, None, None, bytes(DIGEST_BYTES * self._width))

    def add_member(self, key: str, member: Member, name: str) -> None:
        """The same for the unit of one matrix or pair, whose key and inputs' keys are `keys.key`s."""
        pairs = (*member.inputs, *member.reference_inputs)
        names = (tuple(n for n, _ in member.inputs), tuple(n for n, _ in member.reference_inputs))
        if self._inputs is None:
            self._inputs = names
            self._input_keys = bytearray(DIGEST_BYTES * self._width * len(self._sources))
        if names != self._inputs:
            self.add(UnitRef(self._statistic, member.run, member.step, name, key, (member,)))
            return
        checkpoint = self._checkpoints.add((member.run, member.step))
        row = self.index.add(key)
        held = bytes.fromhex("".join([its_key for _, its_key in pairs]))
        self._columns(row, checkpoint, self._names.add(name), member.matrix, member.reference, held)

    def some(self, rows: array[int]) -> KeyedUnits:
        """The units of some rows."""
        return KeyedUnits(self, rows)

    @property
    def _width(self) -> int:
        return 0 if self._inputs is None else sum(map(len, self._inputs))

    def _columns(
        self, row: int, checkpoint: int, name: int, source: MatrixRef | None, reference: MatrixRef | None, inputs: bytes
    ) -> None:
        if not self.every:
            return
        assert row == len(self._sources)
        self._checkpoint_at.append(checkpoint)
        self._name_at.append(name)
        self._sources.append(source)
        self._references.append(reference)
        self._input_keys += inputs

    def _inputs_at(self, row: int) -> tuple[Inputs, Inputs]:
        assert self._inputs is not None
        size = DIGEST_BYTES * self._width
        held = bytes(self._input_keys[row * size : (row + 1) * size]).hex()
        digits = 2 * DIGEST_BYTES
        keys = iter([held[at : at + digits] for at in range(0, len(held), digits)])
        own, of_reference = self._inputs
        return tuple((name, next(keys)) for name in own), tuple((name, next(keys)) for name in of_reference)


class AddressList(Sequence[UnitRef]):
    """Some units by number, each made when it is asked for. Pickled as what they are."""

    def __init__(self, of: Callable[[int], UnitRef], numbers: array[int]) -> None:
        self._of = of
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[UnitRef]:
        return map(self._of, self._numbers)

    @overload
    def __getitem__(self, at: int) -> UnitRef: ...

    @overload
    def __getitem__(self, at: slice) -> AddressList: ...

    def __getitem__(self, at: int | slice) -> UnitRef | AddressList:
        if isinstance(at, slice):
            return AddressList(self._of, self._numbers[at])
        return self._of(self._numbers[at])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __reduce__(self) -> tuple[type, tuple[tuple[UnitRef, ...]]]:
        return tuple, (tuple(self),)


class KeyedUnits(AddressList):
    """Units of one statistic, whose keys are known without making them."""

    def __init__(self, addresses: Addresses, rows: array[int]) -> None:
        super().__init__(addresses.at, rows)
        self._addresses = addresses

    @property
    def keys(self) -> Sequence[str]:
        """Their keys."""
        return self._addresses.index.keys_of(np.frombuffer(self._numbers, dtype=np.int32))

    def where(self, chosen: np.ndarray) -> KeyedUnits:
        """Those that are chosen, (n,) bool."""
        return KeyedUnits(self._addresses, array("i", np.frombuffer(self._numbers, dtype=np.int32)[chosen].tobytes()))


def joined(parts: Sequence[Sequence[UnitRef]]) -> Sequence[UnitRef]:
    """All units of some lists, one after the other."""
    if len(parts) == 1:
        return parts[0]
    first = [0, *accumulate(map(len, parts))]

    def of(number: int) -> UnitRef:
        part = bisect_right(first, number) - 1
        return parts[part][number - first[part]]

    return AddressList(of, array("i", range(first[-1])))


class FoundUnits:
    """The units of one statistic: `places` for which it was asked, `units` by key (those that others need, too)."""

    def __init__(self, statistic: Statistic, addresses: bool = True) -> None:
        self.index = KeyIndex()
        self.places = Places(self.index)
        self.units = Addresses(statistic, self.index, addresses)
        self.skips: list[Skip] = []
        self.complete = False

    def forget(self) -> None:
        """Drops the places."""
        self.places, self.complete = Places(self.index), False
