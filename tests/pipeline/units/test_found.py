"""Units that are held as arrays answer as dicts of them do, in a fraction of the memory."""

from __future__ import annotations

import pickle
import tracemalloc
from array import array

import blake3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzers.contract import MatrixInfo
from analyzers.weight_spectra.statistics import Sigma
from pipeline.archive.recipes import Dense
from pipeline.store.key_index import KeyIndex
from pipeline.units.addresses import MatrixRef, Member, UnitRef
from pipeline.units.found import AddressList, FoundUnits, Places, joined

STATISTIC = Sigma()


def _key(number: int) -> str:
    return blake3.blake3(str(number).encode()).hexdigest(length=16)


def _source(name: str) -> MatrixRef:
    return MatrixRef(MatrixInfo(name, (4, 4)), Dense(f"digest of {name}"), _key(hash(name) % 2**64))


def _address(number: int, inputs: tuple[str, ...] = ("sigma", "entries"), reference: bool = False) -> UnitRef:
    source = _source(f"layers.{number % 3}.weight")
    keys = tuple((name, _key(1000 + number)) for name in inputs)
    member = Member(f"x/run{number % 2}", number, source, source if reference else None, keys, keys[: int(reference)])
    return UnitRef(STATISTIC, member.run, member.step, source.info.name, _key(number), (member,))


PLACES = st.tuples(st.sampled_from(["x/a", "x/b", None]), st.sampled_from([0, 7, None]), st.sampled_from("uvwxyz"))


@given(st.lists(PLACES, unique=True), st.integers(1, 5))
def test_places_are_as_in_a_dict(listed: list[tuple[str | None, int | None, str]], keys: int) -> None:
    places, expected = Places(KeyIndex()), {}
    for number, place in enumerate(listed):
        places.add(place, _key(number % keys))
        expected[place] = _key(number % keys)
    assert list(places.items()) == list(expected.items())
    assert all(places[place] == key for place, key in expected.items())
    assert ("x/none", 0, "u") not in places and (None, None, "none") not in places
    for run, step, _ in listed:
        assert places.of(run, step) == {name: key for (r, s, name), key in expected.items() if (r, s) == (run, step)}


@pytest.mark.parametrize("reference", [False, True])
def test_an_address_is_made_anew_as_it_was(reference: bool) -> None:
    found = FoundUnits(STATISTIC)
    plain = [_address(number, reference=reference) for number in range(6)]
    of_other_inputs = _address(6, inputs=("sigma",), reference=reference)
    of_several = UnitRef(STATISTIC, "x/run0", None, None, _key(7), (plain[0].members[0], plain[1].members[0]))
    for address in (*plain[:4], of_other_inputs, of_several, *plain[4:]):
        if len(address.members) == 1:
            found.units.add_member(address.key, address.members[0], address.matrix or "")
        else:
            found.units.add(address)
    expected = {address.key: address for address in (*plain[:4], of_other_inputs, of_several, *plain[4:])}
    assert dict(found.units) == expected and len(found.units) == 8
    assert _key(9) not in found.units
    some = found.units.some(array("i", [5, 0, 7]))
    assert list(some.keys) == [_key(7), _key(0), _key(5)] == [unit.key for unit in some]
    assert list(some.where(np.array([True, False, True]))) == [of_several, plain[5]]


def test_without_addresses_only_units_of_several_members_have_one() -> None:
    found = FoundUnits(STATISTIC, addresses=False)
    found.places.add(("x/run0", 0, "w"), _key(1))
    several = UnitRef(STATISTIC, "x/run0", None, None, _key(2), _address(0).members * 2)
    found.units.add(several)
    assert dict(found.units) == {_key(2): several} and _key(1) not in found.units
    found.forget()
    assert not found.places and dict(found.units) == {_key(2): several}


def test_lists_of_units_are_cut_joined_and_sent_as_what_they_are() -> None:
    every = tuple(map(_address, range(10)))
    odd = AddressList(every.__getitem__, array("i", [1, 3, 5]))
    assert odd == every[1:6:2] and odd[1:] == (every[3], every[5]) and odd[-1] is every[5]
    assert joined([odd, every[:2], odd[:0]]) == (*every[1:6:2], *every[:2])
    assert not len(joined([]))
    assert pickle.loads(pickle.dumps(odd)) == every[1:6:2]


def test_a_unit_takes_little_memory() -> None:
    count, found, source = 20_000, FoundUnits(STATISTIC), _source("w")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(count):
        key = _key(number)
        inputs = (("sigma", _key(count + number)), ("entries", _key(2 * count + number)))
        found.units.add_member(key, Member("x/run0", number // 100, source, None, inputs), "w")
        found.places.add(("x/run0", number // 100, f"layers.{number % 100}"), key)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 200 * count  # as objects in dicts, about 1100
