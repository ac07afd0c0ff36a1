"""What the contents of stored checkpoints show before anything is measured. No tensor is read, but for a row of few.

for finding in content_findings(store, runs, checkpoints):
    print(finding.severity, finding)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.store.equal_contents import within
from pipeline.store.held import ContentFinding, Held, held_by, name_words, step_words
from pipeline.store.outliers import outliers
from pipeline.store.passed_over import passed_over
from pipeline.store.runs_alike import between
from pipeline.store.sketches import distance, numbers_of

if TYPE_CHECKING:
    from pipeline.store.records import CheckpointRecord, RunRecord
    from pipeline.store.store import Store

_FIRST = ("base_is_a_later_step", "not_finite", "copied_tensors", "equal_steps")


def content_findings(
    store: Store, runs: Sequence[RunRecord], checkpoints: Mapping[str, Sequence[CheckpointRecord]]
) -> tuple[ContentFinding, ...]:
    """All findings, warnings first. `checkpoints` are those of each run that are looked at."""
    every = [held_by(store, run, checkpoints[run.id]) for run in runs]
    listed: list[ContentFinding] = []
    for run, held in zip(runs, every, strict=True):
        if held.role == "base":
            continue
        listed += within(held, store.is_constant)
        listed += _not_finite(store, held, checkpoints[held.run])
        listed += _outliers(held, checkpoints[held.run], {step for one in listed for step in _copied(one, held)})
        listed += passed_over(store, run, checkpoints[run.id])
    listed += between(every)
    rank = {code: at for at, code in enumerate(_FIRST)}
    return tuple(sorted(listed, key=lambda one: (one.severity != "warning", rank.get(one.code, len(rank)))))


def _copied(finding: ContentFinding, held: Held) -> tuple[int, ...]:
    """Steps of a run of which something else explains that they are far from others."""
    copies = ("copied_tensors", "equal_steps") if finding.severity == "warning" else ()
    return finding.steps if finding.code in copies and finding.runs == (held.run,) else ()


def _not_finite(store: Store, held: Held, checkpoints: Sequence[CheckpointRecord]) -> Iterator[ContentFinding]:
    """Tensors with NaN or infinity, those of the same steps together."""
    steps_of: dict[str, list[int]] = {}
    for record in sorted(checkpoints, key=lambda one: one.step):
        for index in record.not_finite:
            steps_of.setdefault(store.layout(record.layout).tensors[index].name, []).append(record.step)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, steps in steps_of.items():
        groups.setdefault(tuple(steps), []).append(name)
    for where, names in groups.items():
        to_the_end = len(where) > 1 and where == held.steps[-len(where) :]
        when = f"from step {where[0]} on" if to_the_end and where != held.steps else f"at {step_words(where)}"
        verb = "holds" if len(names) == 1 else "hold"
        text = f"{name_words(names)} of {held.run} {verb} NaN or infinity {when}."
        yield ContentFinding("not_finite", "warning", (held.run,), where, tuple(names), text)


def _outliers(held: Held, checkpoints: Sequence[CheckpointRecord], copied: set[int]) -> Iterator[ContentFinding]:
    """Steps that stand apart, told from the sketches of those whole checkpoints that have the same parameters."""
    records: list[CheckpointRecord] = []
    for record in sorted(checkpoints, key=lambda one: one.step):
        again = bool(records) and records[-1].digests == record.digests
        if record.sketch and record.step not in copied and not again:
            records.append(record)
    if len({record.layout for record in records}) != 1:
        return
    numbers = [numbers_of(record.sketch) for record in records]
    for one in outliers(len(records), lambda a, b: distance(numbers[a], numbers[b])):
        before, step, after = (records[at].step for at in (one.at - 1, one.at, one.at + 1))
        text = (
            f"Step {step} of {held.run} stands apart: its weights are {one.before:.3g} away from step {before}'s and "
            f"{one.after:.3g} from step {after}'s, which are only {one.between:.3g} apart: a wrong file, or a state "
            "that training later undid."
        )
        yield ContentFinding("outlier", "warning", (held.run,), (step,), (), text)
