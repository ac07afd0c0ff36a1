"""Equal contents within one run: equal checkpoints, parts of another step's, and parameters that never change.

Told from digests alone. A tensor that training moves never returns to the same bits: where one does, a file was copied.
What can return by itself is left out: constants (zero biases, gains of one) and small tensors of 16 bits and less,
where an entry that is rounded up and down again gives the old bits back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from pipeline.archive.types import TensorHeader
from pipeline.store.held import ContentFinding, Held, in_words, name_words, plural, step_words

MOST = 0.5
"""A parameter that stays at more than this part of the steps is named."""
_LAYER = re.compile(r"^(.*?(?:^|\.|/)\d+)(?:\.|/|$)")
_ADAPTER = re.compile(r"lora|adapter|ia3|prompt", re.IGNORECASE)
_SETTING = re.compile(r"(?:lora|lycoris).*\.(?:network_)?alpha$", re.IGNORECASE)
"""The scale of a pair of factors: a setting that kohya's files keep as a tensor."""
_BASE = re.compile(r"(?:^|\.)(?:base_layer|original_module)\.")
"""PEFT's names of the wrapped module: a file may hold its weights beside the factors, and training leaves them."""

IsConstant = Callable[[str], bool]
"""Whether all entries of the tensor with this digest are equal."""


def within(held: Held, is_constant: IsConstant) -> Iterator[ContentFinding]:
    """All findings of one run, what matters most first."""
    if len(set(held.keys) - {None}) == 1 and len(held.equal) == 1 and len(held.steps) == len(held.equal[0]):
        yield ContentFinding(
            "all_equal",
            "warning",
            (held.run,),
            held.steps,
            (),
            f"All {len(held.steps)} checkpoints of {held.run} hold the same weights "
            f"({step_words(held.steps)}): nothing was trained between them, or one file was saved under every step.",
        )
        return
    yield from _base_is_later(held)
    yield from _equal_steps(held)
    yield from _parts(held, is_constant)
    yield from _never_changed(held)
    yield from _seldom_changed(held)


def _base_is_later(held: Held) -> Iterator[ContentFinding]:
    """A run that is compared with one of its own steps, or with a copy of one, that is not its first state."""
    group = held.equal[0] if held.equal else ()
    if held.base_kind != "first_step" or 0 not in group or group[-1] == len(group) - 1:
        return  # steps in a row hold the same weights where a warm-up begins with a rate of zero
    later = tuple(held.steps[at] for at in group[1:])
    last = ", the last" if group[-1] == len(held.steps) - 1 else ""
    yield ContentFinding(
        "base_is_a_later_step",
        "warning",
        (held.run,),
        (held.steps[0], *later),
        (),
        f"{held.run} is compared with its first step, {held.steps[0]}, which holds the same weights as "
        f"{step_words(later)}{last}: unless nothing was trained in between, every comparison uses the wrong "
        "checkpoint. Give the right one with --base.",
    )


def _equal_steps(held: Held) -> Iterator[ContentFinding]:
    for group in held.equal:
        steps = tuple(held.steps[at] for at in group)
        in_a_row = group[-1] - group[0] == len(group) - 1
        last = in_a_row and group[-1] == len(held.steps) - 1
        why = (
            "the last one was saved again"
            if last and len(group) == 2
            else "nothing was trained between them"
            if in_a_row
            else "the checkpoints between them differ, so all but one are copies"
        )
        text = f"{step_words(steps).capitalize()} of {held.run} hold the same weights: {why}."
        yield ContentFinding("equal_steps", "note" if in_a_row else "warning", (held.run,), steps, (), text)


def _parts(held: Held, is_constant: IsConstant) -> Iterator[ContentFinding]:
    """Tensors that come back bit for bit after others stood in their place, while the rest of the checkpoint does not;
    and tensors that stay once, while they and all others change at every other step.

    Each pair of contents is reported once; steps that hold the same weights are one content.
    """
    content = list(range(len(held.steps)))  # step index → the first index with these weights
    for group in held.equal:
        for at in group:
            content[at] = group[0]
    shared: dict[tuple[int, int], list[str]] = {}
    interrupted: dict[tuple[int, ...], list[str]] = {}
    stayed: dict[tuple[int, int], list[str]] = {}
    for name, of_steps in held.digests.items():
        returns = list(_returns(of_steps, content))
        stays = [] if returns else _only_stay(of_steps, content)
        if not (returns or stays) or not is_evidence(held.headers[name]):
            continue
        if is_constant(of_steps[(returns or stays)[0][0]] or ""):
            continue
        usual = max(of_steps, key=of_steps.count)
        if returns and 2 * of_steps.count(usual) > len(of_steps) and not held.equal:
            interrupted.setdefault(tuple(at for at, value in enumerate(of_steps) if value != usual), []).append(name)
            continue
        for pair in returns:
            shared.setdefault(pair, []).append(name)
        for pair in stays:
            stayed.setdefault(pair, []).append(name)
    for steps, names in interrupted.items():
        yield _interruption(held, tuple(names), tuple(held.steps[at] for at in steps))
    groups: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for pair, names in sorted(shared.items()):
        groups.setdefault(tuple(names), []).append(pair)
    for named, pairs in groups.items():
        where = [at for at in range(len(held.steps)) if any(content[at] in pair for pair in pairs)]
        yield _part(held, named, tuple(held.steps[at] for at in where), _apart(where, content))
    for (one, other), names in stayed.items():
        yield _stay(held, tuple(names), (held.steps[one], held.steps[other]))


def _returns(of_steps: tuple[str | None, ...], content: list[int]) -> Iterator[tuple[int, int]]:
    """Pairs of contents that share a digest with another one between them."""
    places: dict[str, list[int]] = {}
    for at, value in enumerate(of_steps):
        if value is not None:
            places.setdefault(value, []).append(at)
    if len(places) < 2:
        return
    for where in places.values():
        seen: set[tuple[int, int]] = set()
        for one, other in pairwise(where):
            first, second = sorted((content[one], content[other]))
            changed = any(value is not None and value != of_steps[one] for value in of_steps[one + 1 : other])
            if changed and first != second and (first, second) not in seen:
                seen.add((first, second))
                yield first, second


def _only_stay(of_steps: tuple[str | None, ...], content: list[int]) -> list[tuple[int, int]]:
    """The one pair of neighbours that share a digest, where there are three pairs or more and all others do not."""
    pairs = [
        (at, at + 1)
        for at in range(len(of_steps) - 1)
        if of_steps[at] is not None and of_steps[at + 1] is not None and content[at] != content[at + 1]
    ]
    equal = [pair for pair in pairs if of_steps[pair[0]] == of_steps[pair[1]]]
    return equal if len(pairs) > 2 and len(equal) == 1 else []


def _apart(steps: list[int], content: list[int]) -> int:
    """Which of the steps is alone in what else it holds, where the others are one content; −1 where none is."""
    counts: dict[int, list[int]] = {}
    for at in steps:
        counts.setdefault(content[at], []).append(at)
    alone = [group[0] for group in counts.values() if len(group) == 1]
    return steps.index(alone[0]) if len(alone) == 1 and len(counts) > 1 else -1


def _part(held: Held, names: tuple[str, ...], steps: tuple[int, ...], apart: int) -> ContentFinding:
    one = steps[apart] if apart >= 0 else steps[0]
    others = tuple(step for step in steps if step != one)
    text = (
        f"At step {one} of {held.run}, {_of_all(held, names)} bit-equal to those of {step_words(others)}, while the "
        "steps between hold other values: a part of one of these checkpoints (a shard) is a copy from another."
    )
    return ContentFinding("copied_tensors", "warning", (held.run,), (one, *others), names, text)


def _stay(held: Held, names: tuple[str, ...], steps: tuple[int, int]) -> ContentFinding:
    text = (
        f"From step {steps[0]} to {steps[1]} of {held.run}, {_of_all(held, names)} bit-equal, while the others change "
        "there and these change everywhere else: a part of one of the two checkpoints (a shard) is a copy from the "
        "other, or was not trained in between."
    )
    return ContentFinding("copied_tensors", "warning", (held.run,), steps, names, text)


def _interruption(held: Held, names: tuple[str, ...], steps: tuple[int, ...]) -> ContentFinding:
    text = (
        f"At {step_words(steps)} of {held.run}, {_of_all(held, names)} not what all other steps hold, before and "
        "after: a part of this checkpoint (a shard) comes from elsewhere."
    )
    return ContentFinding("copied_tensors", "warning", (held.run,), steps, names, text)


def _of_all(held: Held, names: tuple[str, ...]) -> str:
    """2 of 3 parameters (a, b) are"""
    verb = "is" if len(names) == 1 else "are"
    return f"{len(names)} of {plural(len(held.digests), 'parameter')} ({name_words(names)}) {verb}"


def is_evidence(header: TensorHeader) -> bool:
    """Whether a tensor that is trained cannot return to the same bits by itself."""
    size = 1
    for extent in header.shape:
        size *= extent
    wide = header.nbytes >= 4 * size
    return size >= (8 if wide else 64) and (wide or len(header.shape) > 1)


def _never_changed(held: Held) -> Iterator[ContentFinding]:
    counted = {name: [value for value in of_steps if value is not None] for name, of_steps in held.digests.items()}
    alike = [name for name, values in counted.items() if len(values) > 1 and len(set(values)) == 1]
    still = [name for name in alike if not _SETTING.search(name)]
    moved = [name for name, values in counted.items() if len(set(values)) > 1]
    if not still or not moved:
        return
    adapted = any(_ADAPTER.search(name) for name in moved)
    adapted = adapted and not held.adapter  # an adapter's file holds no weights of its base but copies
    base = [name for name in still if _BASE.search(name) or (adapted and not _ADAPTER.search(name))]
    still = [name for name in still if name not in base]
    if base and not held.adapter:
        text = (
            f"{plural(len(base), 'parameter')} of {held.run} outside its adapter {'is' if len(base) == 1 else 'are'} "
            f"frozen, as the adapter's base should be: {name_words(base, 4)}."
        )
        yield ContentFinding("frozen", "note", (held.run,), held.steps, tuple(base), text)
    if not still:
        return
    frozen = _frozen_as_a_whole(held, still, moved)
    scattered = [name for name in still if name not in frozen]
    if scattered:
        low = {held.headers[name].dtype for name in scattered} & {"bfloat16", "float16"}
        rounded = (
            f" or every update of them was rounded away ({in_words(sorted(low))} loses what is below half a unit in "
            "the last place)"
            if low
            else ""
        )
        one = len(scattered) == 1
        text = (
            f"{plural(len(scattered), 'parameter')} of {held.run} never {'changes' if one else 'change'} over its "
            f"{len(held.steps)} checkpoints, while the rest does: {name_words(scattered)}. Either "
            f"{'it was' if one else 'they were'} not trained{rounded or ', or had no gradient'}."
        )
        yield ContentFinding("never_changed", "warning", (held.run,), held.steps, tuple(scattered), text)
    if frozen:
        layers = list(dict.fromkeys(_part_of(name) for name in frozen))
        text = (
            f"{plural(len(frozen), 'parameter')} of {held.run} never {'changes' if len(frozen) == 1 else 'change'}, "
            f"and nothing else in {name_words(layers)} does: frozen as a whole."
        )
        yield ContentFinding("frozen", "note", (held.run,), held.steps, tuple(frozen), text)


def _frozen_as_a_whole(held: Held, still: Sequence[str], moved: Sequence[str]) -> list[str]:
    """Those in a layer or module of which nothing moves, a matrix included: gains and biases alone are no part that
    somebody would freeze, unless all around them stays as well."""
    movers = {_part_of(name) for name in moved}
    matrices = [name for name in still if not _is_vector(held.headers[name])]
    parts = {_part_of(name) for name in matrices} - movers
    frozen = []
    for name in still:
        part = _part_of(name)
        around = part.rpartition(".")[0]
        inside = bool(around) and any(other.startswith(f"{around}.") for other in matrices)
        if part in parts or (
            part not in movers and inside and not any(other.startswith(f"{around}.") for other in moved)
        ):
            frozen.append(name)
    return frozen


def _part_of(name: str) -> str:
    """The numbered layer that a parameter lies in, or its module."""
    layer = _LAYER.match(name)
    return layer[1] if layer else re.split(r"[./]", name)[0] if name.count(".") < 2 else name.rpartition(".")[0]


def _is_vector(header: TensorHeader) -> bool:
    return len(header.shape) < 2


def _seldom_changed(held: Held) -> Iterator[ContentFinding]:
    """Parameters that stay from one checkpoint to the next more often than not, while others move each time."""
    pairs = [(a, a + 1) for a in range(len(held.steps) - 1) if held.keys[a] is None or held.keys[a] != held.keys[a + 1]]
    seldom: dict[str, int] = {}
    for name, of_steps in held.digests.items():
        values = [(of_steps[a], of_steps[b]) for a, b in pairs if of_steps[a] is not None and of_steps[b] is not None]
        changes = sum(one != other for one, other in values)
        if len(values) > 2 and 0 < changes < (1 - MOST) * len(values):
            seldom[name] = changes
    if not seldom:
        return
    shown = [f"{name} ({count} of {len(pairs)})" for name, count in sorted(seldom.items(), key=lambda item: item[1])]
    text = (
        f"{plural(len(seldom), 'parameter')} of {held.run} {'changes' if len(seldom) == 1 else 'change'} between fewer "
        f"than half of the checkpoints: {name_words(shown)}."
    )
    yield ContentFinding("seldom_changed", "note", (held.run,), held.steps, tuple(seldom), text)
