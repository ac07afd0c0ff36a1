"""Runs that hold equal checkpoints: from one seed or start up to a step, or because a file was copied between them.

Told from digests alone; runs are compared at the steps that they share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.store.equal_contents import is_evidence
from pipeline.store.held import ContentFinding, Held, in_words, name_words, plural, step_words

RUNS_SHOWN = 4
Parting = tuple[tuple[int, ...], int | None, tuple[str, ...], int]
"""Equal steps, the first step that differs (None: none), what differs there, and of how many parameters."""


def between(runs: Sequence[Held]) -> Iterator[ContentFinding]:
    """All findings about pairs and groups of runs."""
    chosen = [held for held in runs if held.role != "base"]
    partings: dict[tuple[str, Parting], list[str]] = {}
    explained: set[tuple[str, str]] = set()
    at_start: dict[tuple[int, str], Held] = {}
    for held in chosen:
        first = next(((step, key) for step, key in zip(held.steps, held.keys, strict=True) if key), None)
        if first is None:
            continue
        other = at_start.setdefault(first, held)
        if other is not held:
            partings.setdefault((other.run, _parting(other, held)), []).append(held.run)
            explained.add((other.run, held.run))
    for (run, parting), others in partings.items():
        yield _alike((run, *others), parting)
    yield from _copies(chosen, explained)
    yield from _copied_parts(chosen, explained)
    yield from _bases(runs)


def _parting(one: Held, other: Held) -> Parting:
    there = {step: at for at, step in enumerate(other.steps)}
    common = [(step, at, there[step]) for at, step in enumerate(one.steps) if step in there]
    equal: list[int] = []
    for step, at, its in common:
        if one.keys[at] is None or other.keys[its] is None:
            continue  # one that could not be read says nothing
        if one.keys[at] != other.keys[its]:
            names = dict.fromkeys((*one.digests, *other.digests))
            differing = [n for n in names if _value(one, n, at) != _value(other, n, its)]
            return tuple(equal), step, tuple(differing), len(names)
        equal.append(step)
    return tuple(equal), None, (), len(one.digests)


def _value(held: Held, name: str, at: int) -> str | None:
    return held.digests[name][at] if name in held.digests else None


def _alike(runs: tuple[str, ...], parting: Parting) -> ContentFinding:
    equal, step, differing, count = parting
    who = in_words([*runs[:RUNS_SHOWN], f"{len(runs) - RUNS_SHOWN} more"] if len(runs) > RUNS_SHOWN else list(runs))
    if step is None:
        text = f"{who} hold the same weights at every step that they share ({step_words(equal)}): one is a copy."
        return ContentFinding("equal_runs", "warning", runs, equal, (), text)
    which = (
        f"all {count} parameters" if len(differing) == count else f"{len(differing)} of {plural(count, 'parameter')}"
    )
    names = "" if len(differing) == count else f": {name_words(differing)}"
    if len(equal) == 1:
        text = f"{who} start from the same weights (step {equal[0]}) and differ from step {step} on, in {which}{names}."
        return ContentFinding("same_start", "note", runs, (*equal, step), differing, text)
    text = (
        f"{who} are bit-identical up to step {equal[-1]} ({plural(len(equal), 'checkpoint')}) and part at step {step}, "
        f"where {which} differ{names}: up to there they are one run, not independent replicates."
    )
    return ContentFinding("identical_until", "warning", runs, (*equal, step), differing, text)


def _copies(runs: Sequence[Held], explained: set[tuple[str, str]]) -> Iterator[ContentFinding]:
    """Checkpoints of two runs that hold the same weights for no reason that is seen: not the start of either."""
    places: dict[str, list[tuple[str, int, bool]]] = {}
    for held in runs:
        for at, key in enumerate(held.keys):
            if key is not None:
                places.setdefault(key, []).append((held.run, held.steps[at], at == 0))
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    starts: dict[tuple[str, str], tuple[int, int]] = {}
    for where in places.values():
        run, step, is_first = where[0]
        for other, its_step, other_is_first in where[1:]:
            if other == run or (run, other) in explained:
                continue
            if other_is_first and not is_first:
                starts.setdefault((run, other), (step, its_step))
            elif is_first and not other_is_first:
                starts.setdefault((other, run), (its_step, step))
            else:
                pairs.setdefault((run, other), []).append((step, its_step))
    for (run, other), (step, its_step) in starts.items():
        text = f"{other} starts (step {its_step}) from the weights of {run} at step {step}."
        yield ContentFinding("starts_from", "note", (run, other), (step,), (), text)
    for (run, other), steps in pairs.items():
        same = in_words([f"step {step} of {run} and step {its_step} of {other}" for step, its_step in steps[:3]])
        more = f", and at {len(steps) - 3} more steps" if len(steps) > 3 else ""
        text = f"{same[:1].upper()}{same[1:]} hold the same weights{more}: one is a copy."
        yield ContentFinding("copied_checkpoint", "warning", (run, other), tuple(s for s, _ in steps), (), text)


def _copied_parts(runs: Sequence[Held], explained: set[tuple[str, str]]) -> Iterator[ContentFinding]:
    """Tensors of a checkpoint that are bit-equal to those of another run's, while others of it are not: a shard that
    was copied. Both runs have changed these tensors since the step before, so that they were not left from the start.
    """
    places: dict[str, list[tuple[int, int, str]]] = {}
    for number, held in enumerate(runs):
        for name, of_steps in held.digests.items():
            if is_evidence(held.headers[name]):
                for at in range(1, len(of_steps)):
                    value, before = of_steps[at - 1 : at + 1][::-1]
                    if value is not None and before is not None and value != before:
                        places.setdefault(value, []).append((number, at, name))
    shared: dict[tuple[int, int, int, int], list[str]] = {}
    for first, *others in places.values():
        for number, at, name in others:
            if number != first[0] and (runs[first[0]].run, runs[number].run) not in explained:
                shared.setdefault((first[0], first[1], number, at), []).append(name)
    for (number, at, its_number, its_at), names in shared.items():
        one, other = runs[number], runs[its_number]
        if one.keys[at] is not None and one.keys[at] == other.keys[its_at]:
            continue  # the whole checkpoint is a copy
        here, there = ({n: of[at_] for n, of in run.digests.items()} for run, at_ in ((one, at), (other, its_at)))
        if not any(here.get(n) and there[n] and here[n] != there[n] for n in there):
            continue  # the others are not known to differ: they could not be read
        count = plural(len(other.digests), "parameter")
        text = (
            f"{len(names)} of {count} ({name_words(names)}) at step {other.steps[its_at]} of {other.run} "
            f"{'is' if len(names) == 1 else 'are'} bit-equal to those at step {one.steps[at]} of {one.run}, while the "
            "others differ: a part of one of these checkpoints (a shard) is a copy from the other."
        )
        steps = (one.steps[at], other.steps[its_at])
        yield ContentFinding("copied_tensors", "warning", (one.run, other.run), steps, tuple(names), text)


def _bases(runs: Sequence[Held]) -> Iterator[ContentFinding]:
    """Runs whose base, of another run, holds the weights of a step of theirs that is not their first."""
    keys = {(held.run, step): key for held in runs for step, key in zip(held.steps, held.keys, strict=True) if key}
    for held in runs:
        id, _, step = (held.base or "").rpartition("@")
        key = keys.get((id, int(step))) if step.isdigit() and id != held.run else None
        if key is None or key not in held.keys[1:] or key == held.keys[0]:
            continue
        same = tuple(held.steps[at] for at, own in enumerate(held.keys) if own == key)
        text = (
            f"{held.run} is compared with {held.base}, which holds the same weights as its own {step_words(same)}: "
            "unless nothing was trained before, every comparison uses the wrong checkpoint. Give the right one with "
            "--base."
        )
        yield ContentFinding("base_is_a_later_step", "warning", (held.run, id), same, (), text)
