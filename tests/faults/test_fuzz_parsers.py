"""A slice of the fuzzing of all parsers, with fixed seeds, and the corpus that longer runs left."""

from __future__ import annotations

from tests.faults.fuzz_parsers import CORPUS, CORPUS_BYTES, fuzz, replay


def test_a_slice_of_the_fuzzing_has_no_escape_and_no_case_over_the_limits() -> None:
    tally = fuzz(seconds=300, seed=0, cases=400)
    assert tally.cases == 400
    assert not tally.failures, "\n".join(tally.lines())
    assert len(tally.findings) > 20


def test_the_cases_of_the_corpus_cost_no_more_than_themselves() -> None:
    cases = list(CORPUS.glob("*.tar.gz"))
    assert cases
    assert sum(path.stat().st_size for path in cases) <= CORPUS_BYTES
    tally = replay(CORPUS)
    assert tally.cases == len(cases)
    assert not tally.failures, "\n".join(tally.lines())
