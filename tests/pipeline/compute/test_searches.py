"""Searches: a trial that two of them share is computed once, and what is to come is an estimate that is corrected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyzers.contract import Context, IterativeStatistic, Result, Trial, Unit
from analyzers.errors import Unmeasurable
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.compute.run import compute, iter_rounds, run_groups
from pipeline.report.view import StoreView
from tests.pipeline.compute.plugins import Everything, calls, note
from tests.pipeline.compute.stores import small_store


@dataclass(frozen=True)
class Ladder(IterativeStatistic):
    """Climbs to a height, one trial a round; the ground floor is the same for every slope."""

    name, version, scope = "test_ladder", 1, "matrix"
    slope: int = 1
    height: int = 4
    log: str = ""

    def parameters(self) -> dict[str, Any]:
        return {"slope": self.slope}

    def propose(self, results: Sequence[tuple[Trial, Result | Unmeasurable]]) -> Sequence[Trial]:
        return [{"at": len(results)}] if len(results) < self.height else ()

    def further(self, results: Sequence[tuple[Trial, Result | Unmeasurable]], proposed: int) -> int:
        return 3 - len(results) - proposed  # too few of a height of 4, and negative in the end

    def shared(self, trial: Trial) -> IterativeStatistic:
        return self if trial["at"] else replace(self, slope=0)

    def compute(self, unit: Unit, context: Context) -> Result:
        assert unit.trial is not None and unit.only.matrix is not None
        note(self.log, f"{unit.only.matrix.key} {self.slope if unit.trial['at'] else 0} {unit.trial['at']}")
        return {"value": np.array(self.slope * unit.trial["at"])}


def test_a_trial_that_two_searches_share_is_computed_once_and_both_have_it(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    one, two = Ladder(1, log=str(tmp_path)), Ladder(2, log=str(tmp_path))
    planned = plan(store, [Everything(one, two)])
    assert planned.missing == len({job.key for job in planned.jobs}) == len({job.members for job in planned.jobs})
    with ThreadCluster(2) as cluster:
        compute(store, [Everything(one, two)], cluster)
    counted = Counter(calls(str(tmp_path)))
    assert set(counted.values()) == {1}
    assert sum(line.endswith(" 0 0") for line in counted) == len(counted) // 7  # of 1 + 3 + 3 trials a matrix
    view = StoreView(store, [Everything(one, two)])
    where = next(run.id for run in view.runs if 10 in run.steps and run.role == "run" and not run.adapter)
    name = next(m for m in view.matrices if view.trials(one, where, 10, m))
    for statistic in (one, two):
        trials = view.trials(statistic, where, 10, name)
        assert [trial["at"] for trial, _ in trials] == [0, 1, 2, 3]
        assert [int(result["value"]) for _, result in trials] == [0, *(statistic.slope * at for at in (1, 2, 3))]


def test_what_is_stored_under_the_shared_key_serves_a_search_that_comes_later(tmp_path: Path) -> None:
    store = small_store(tmp_path, steps=(10,))
    with ThreadCluster(1) as cluster:
        first = compute(store, [Everything(Ladder(0))], cluster)
        later = compute(store, [Everything(Ladder(5))], cluster)
    assert later.present == first.measured // 4 and later.measured == 3 * later.present


@pytest.mark.parametrize("height", [1, 3, 6])
def test_what_is_done_is_never_more_than_what_is_expected(tmp_path: Path, height: int) -> None:
    store = small_store(tmp_path, steps=(10,))
    planned = plan(store, [Everything(Ladder(1, height))])
    assert planned.further > planned.missing > 0
    done, expected = 0, planned.missing + planned.further
    with ThreadCluster(1) as cluster:
        for one in iter_rounds(store, planned):
            units = sum(len(group.units) for group in one.groups)
            expected = done + units + one.after
            run_groups(store, one.groups, cluster)
            done += units
            assert done <= expected
    assert done == height * planned.missing
