"""Several runs without the same base are one problem; what differs stays apart."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError, BaseNotFoundError
from pipeline.archive.missing_bases import missing_bases
from pipeline.archive.types import Archive, Run
from tests.pipeline.archive.tiny import PROPERTY

names = st.text("abc/é", min_size=1, max_size=5)
errors = st.dictionaries(names, st.tuples(st.sampled_from(["names 'x'", "names 'y'"]), st.lists(names)), max_size=9)


@settings(PROPERTY, max_examples=30)
@given(errors, st.lists(names, max_size=2))
def test_each_cause_is_one_problem_that_names_its_runs(
    causes: dict[str, tuple[str, list[str]]], shared: list[str]
) -> None:
    root = Path("archive")
    archive = Archive("archive", root, tuple(Run(name, root / name, ()) for name in causes))
    failures = {
        run: BaseNotFoundError(f"{run}: {why}", why, tuple(dict.fromkeys((*shared, *looked))))
        for run, (why, looked) in causes.items()
    }
    problems = missing_bases(archive, failures)
    assert problems.keys() == causes.keys()
    assert len(set(problems.values())) == len({why for why, _ in causes.values()})
    for why in {why for why, _ in causes.values()}:
        runs = [run for run in causes if causes[run][0] == why]
        reason = problems[runs[0]].reason
        if len(runs) > 1:
            assert reason.startswith(f"the base of {len(runs)} runs was not found ({why}): ")
            assert all(place in reason for place in shared)


def test_a_damaged_base_stays_a_problem_of_its_own_run() -> None:
    root = Path("archive")
    archive = Archive("archive", root, tuple(Run(name, root / name, ()) for name in "ab"))
    problems = missing_bases(archive, {"a": ArchiveError("a is damaged"), "b": ArchiveError("a is damaged")})
    assert [p.path for p in problems.values()] == ["archive/a", "archive/b"]
    assert {p.reason for p in problems.values()} == {"a is damaged"}
