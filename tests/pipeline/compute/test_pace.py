"""Estimates of the time to go follow what was measured, by simulated clocks."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.pace import Pace, samples_first

START_UP = 4.0
"""What a worker's first group pays beside its work."""


def simulated(
    planned: dict[str, list[float]], wrong: dict[str, float], workers: int, seed: int = 0
) -> list[tuple[float, float, float | None]]:
    """Runs the groups of each statistic in an interleaved order on simulated workers; after each group: the share of
    the work that is done, the true time to go, and the estimate."""
    chance = random.Random(seed)
    groups = [(name, seconds) for name, every in planned.items() for seconds in every]
    chance.shuffle(groups)
    pace = Pace({name: sum(every) for name, every in planned.items()}, workers, 0.0)
    free = [(0.0, worker) for worker in range(workers)]
    fresh = set(range(workers))
    ends = []
    for name, seconds in groups:
        now, worker = heapq.heappop(free)
        work = seconds * wrong.get(name, 1.0) * chance.uniform(0.8, 1.25)
        actual = work + (START_UP if worker in fresh else 0.0)
        fresh.discard(worker)
        heapq.heappush(free, (now + actual, worker))
        ends.append((now + actual, name, seconds, actual, work))
    ends.sort()
    end, whole, done = ends[-1][0], sum(work for *_, work in ends), 0.0
    told = []
    for now, name, seconds, actual, work in ends:
        pace.finished(name, seconds, actual, now)
        left = pace.to_go(now)
        done += work
        told.append((done / whole, end - now, None if left is None else left.middle))
    return told


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_plan_that_is_wrong_by_ten_in_one_statistic_is_corrected_by_a_fifth_of_the_work(
    workers: int, factor: float, seed: int
) -> None:
    planned = {"spectra": [0.5] * 120, "angles": [1.0, 2.0] * 30, "laws": [0.1] * 200}
    told = simulated(planned, {"angles": factor}, workers, seed)
    middle = [(true, estimate) for share, true, estimate in told if 0.2 <= share <= 0.9]  # then the last ones run
    assert len(middle) > 50
    for true, estimate in middle:
        assert estimate is not None
        assert true / 2 <= estimate <= 2 * true


def test_the_start_up_of_the_first_unit_is_not_taken_for_the_pace() -> None:
    pace = Pace({"spectra": 10.0}, 1, 0.0)
    pace.finished("spectra", 0.1, 6.0, 6.0)
    assert pace.to_go(6.0) is None, "one group, with all of the start-up, tells nothing"
    pace.finished("spectra", 0.1, 0.1, 6.1)
    left = pace.to_go(6.1)
    assert left is not None and left.middle == pytest.approx(9.8)
    assert left.low < left.middle < left.high


def test_bounds_are_wide_for_what_nobody_measured_and_close_as_more_is_measured() -> None:
    pace = Pace({"spectra": 100.0, "angles": 100.0}, 1, 0.0)
    spread = []
    for at in range(1, 60):
        pace.finished("spectra", 1.0, 1.0, float(at))
        if (left := pace.to_go(float(at))) is not None:
            spread.append(left.high / left.low)
    assert spread[0] > spread[-1] > 2
    for at in range(60, 110):
        pace.finished("angles", 1.0, 1.0, float(at))
    left = pace.to_go(110.0)
    assert left is not None and left.high / left.low < 1.5


def test_work_that_searches_add_is_expected() -> None:
    pace = Pace({"search": 1.0}, 1, 0.0)
    pace.finished("search", 0.5, 0.5, 0.5)
    pace.finished("search", 0.5, 0.5, 1.0)
    pace.expect({"search": 3.0})
    left = pace.to_go(1.0)
    assert left is not None and left.middle == pytest.approx(3.0)


@dataclass(frozen=True)
class Named:
    """What the order looks at: the name of a group's statistic."""

    name: str


@dataclass(frozen=True)
class Piece:
    """A group of work, told apart by its number."""

    statistic: Named
    number: int


def pieces(names: str) -> list[Piece]:
    return [Piece(Named(name), number) for number, name in enumerate(names)]


def order_of(names: str, workers: int) -> list[int]:
    return [piece.number for piece in samples_first(pieces(names), workers)]  # type: ignore[arg-type, attr-defined]  # only the statistic's name is read


def test_a_middle_group_of_every_statistic_comes_after_one_group_for_each_worker() -> None:
    #              0123456789
    assert order_of("aaaaabbbcc", 2) == [0, 1, 3, 6, 9, 2, 4, 5, 7, 8]


@pytest.mark.parametrize("names", ["", "a", "aaaa", "ab"])
def test_with_one_statistic_left_or_few_groups_the_order_stays(names: str) -> None:
    assert order_of(names, 1) == list(range(len(names)))


@given(st.text("abcd", max_size=30), st.integers(1, 8))
def test_the_order_of_samples_loses_and_doubles_no_group(names: str, workers: int) -> None:
    ordered = order_of(names, workers)
    assert sorted(ordered) == list(range(len(names)))
    assert ordered[:workers] == list(range(min(workers, len(names))))
    rest = ordered[workers + len(set(names[workers:])) :]
    assert rest == sorted(rest)
