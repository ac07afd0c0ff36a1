"""The series among the names of one folder, and each name's step: the number that varies while the rest is equal.

read_names(["actor_100", "actor_200", "critic_100", "critic_200"])   # two series of steps 100 and 200

Names of one form (equal words, numbers aside) are read together. Words only order the guesses: see `_step_slot`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.archive.name_parts import ALIASES, CLOCKS, GENERIC, RANKS, Name, Slot, joined, parse, spelled_out

Key = tuple[str, ...]
"""What the names of one series share: the form's words, with the values of the numbers that are not the step."""

_SEPARATORS = "-_=., "
_VERSION = re.compile(r"-(v\d+)$")
_UNITS = {"epoch": "epoch", "episode": "episode"}
_LETTERS = {"s": "step", "i": "iteration", "it": "iteration"}


@dataclass(frozen=True)
class NamedStep:
    """A step read from a name. `rank` tells by which word ("number": by none). `weak`: the name is a bare number,
    which counts only where no other part of the path tells a step. `guess`: no word tells that the number is a step;
    it varies while the rest is equal, and the checkpoints must turn out to be of one architecture.

    `series` is what the name says beside step and generic words ('pythia-70m' in pythia-70m-step1000), and `labels`
    are longer names of the series, for where two are called the same. `key` identifies it. `unit` is what is counted.
    """

    step: int
    rank: str
    weak: bool = False
    guess: bool = False
    series: str = ""
    key: Key = ()
    labels: tuple[str, ...] = ()
    unit: str = "step"


Pattern = Callable[[str], "tuple[tuple[int, int], str | None] | None"]
"""Where the user's pattern finds the step in a name, and the series it names; None where it does not match."""


def read_names(names: Collection[str], are_files: bool = True, pattern: Pattern | None = None) -> dict[str, NamedStep]:
    """The steps of sibling names (files' stems, or folders); a name that tells none is left out."""
    found: dict[str, NamedStep] = {}
    parsed = []
    for text in sorted(set(names)):
        at = pattern(text) if pattern is not None else None
        if at is not None and at[1] is not None:
            value = parse(text, at[0]).slots
            step = next(slot.token.value for slot in value if slot.clock == "pattern")
            found[text] = NamedStep(step or 0, "pattern", series=at[1], key=(at[1],), labels=(at[1],) * 2)
        elif pattern is None or at is not None:
            parsed.append(parse(text, at[0] if at else None))
    for group in _groups(_with_letters(_with_thousands(parsed))):
        found.update(_read_group(group, are_files))
    return found


def _groups(names: Sequence[Name]) -> list[list[Name]]:
    groups: dict[Key, list[Name]] = {}
    for name in names:
        groups.setdefault(name.skeleton, []).append(name)
    return list(groups.values())


def _with_thousands(names: Sequence[Name]) -> list[Name]:
    """Numbers with separated thousands as one number, where all names of a form allow that reading."""
    ready: list[Name] = []
    for group in _groups(names):
        spans = [span for span in _thousands_spans(group[0]) if _are_thousands(group, *span)]
        # From the right, so that the indices of the others stay.
        for first, last in reversed(spans):
            group = [joined(name, first, last) for name in group]
        ready += group
    return ready


def _with_letters(names: Sequence[Name]) -> list[Name]:
    """Names of the form e3_s500 with their letters read as "epoch" and "step". The s is a step only where the second
    numbers are all different and rise with the first: seeds do not."""
    ready: list[Name] = []
    for group in _groups(names):
        first = group[0]
        for at, (one, other) in enumerate(pairwise(first.slots)):
            words = [first.tokens[slot.at - 1].word if slot.at else "" for slot in (one, other)]
            if len(group) > 1 and other.at == one.at + 2 and words[0] == "e" and words[1] in _LETTERS:
                pairs = [(name.slots[at].token.value or 0, name.slots[at + 1].token.value or 0) for name in group]
                steps = {other.at - 1: _LETTERS[words[1]]} if _rises(pairs) else {}
                group = [spelled_out(name, {one.at - 1: "epoch", **steps}) for name in group]
        ready += group
    return ready


def _rises(pairs: Sequence[tuple[int, int]]) -> bool:
    """Whether the second numbers are all different and rise with the first."""
    by_second = [first for _, first in sorted((second, first) for first, second in pairs)]
    return len({second for _, second in pairs}) == len(pairs) and by_second == sorted(by_second)


def _thousands_spans(name: Name) -> list[tuple[int, int]]:
    """First and last token of each chain of numbers that "_" or "," separates; the number of an epoch is in none."""
    spans: list[tuple[int, int]] = []
    for slot in name.slots:
        first, last = spans[-1] if spans else (-1, -1)
        if slot.clock == "epoch":
            continue
        if last == slot.at - 1 and last >= 0 and name.between(last) in ("_", ","):
            spans[-1] = (first, slot.at)
        else:
            spans.append((slot.at, slot.at))
    return [span for span in spans if span[1] > span[0]]


def _are_thousands(group: Sequence[Name], first: int, last: int) -> bool:
    """Whether these numbers are written in groups of three digits in every name: and a step's word is beside them,
    or they end in 000, 500, ... throughout."""
    for name in group:
        head, *rest = (token.text for token in name.tokens[first : last + 1])
        separators = {name.between(at) for at in range(first, last)}
        if len(separators) > 1 or not separators <= {"_", ","}:
            return False
        if not re.fullmatch(r"[1-9]\d{0,2}", head) or not all(re.fullmatch(r"\d{3}", part) for part in rest):
            return False
    ends = [name.tokens[last].text for name in group]
    if len(group) > 1 and len(set(ends)) == 1 and not ends[0].endswith("00"):
        return False  # step_100_512, step_200_512: a width
    words = group[0].skeleton
    beside = {words[at] for at in (first - 1, last + 1) if 0 <= at < len(words)}
    if beside & {"step", "iteration"} or last - first > 1:
        return True
    return all(end.endswith("00") for end in ends) and "000" in ends


def _read_group(group: Sequence[Name], are_files: bool) -> dict[str, NamedStep]:
    chosen = _step_slot(group, are_files)
    if chosen is None:
        return {}
    at, guess = chosen
    others = [index for index in range(len(group[0].slots)) if index != at]
    follows = _following(group, at, others)
    read = {}
    for name in group:
        slot = name.slots[at]
        rank = slot.clock or "number"
        ignored = [name.slots[index] for index in others if index in follows]
        labels = _labels(name, slot, ignored)
        is_bare = len(name.tokens) == 1 and not slot.clock
        assert slot.token.value is not None
        read[name.text] = NamedStep(
            slot.token.value,
            rank,
            weak=is_bare,
            guess=guess and not is_bare,
            series=labels[0],
            key=_key(name, slot, ignored),
            labels=labels[1:],
            unit=_unit(name, slot),
        )
    members = Counter(named.key for named in read.values())
    return {text: named for text, named in read.items() if not named.guess or members[named.key] > 1 or len(read) == 1}


def _step_slot(group: Sequence[Name], are_files: bool) -> tuple[int, bool] | None:
    """Which number of the names of one form is the step, and whether that is only a guess; None: none is.

    In this order: a varying number beside "step" or "iteration"; a varying number directly after another one
    (checkpoint_1_500, epoch2_1); a varying one beside "checkpoint", "epoch", "episode"; a constant one beside any of
    these; a varying one beside no such word; in a single name, the number after generic words (model_000100).
    """
    first = group[0]
    values = [[name.slots[at].token.value for name in group] for at in range(len(first.slots))]
    varying = [len(set(column)) > 1 for column in values]

    def best(indices: list[int]) -> int:
        return min(indices, key=lambda at: (RANKS.get(first.slots[at].clock, -1), -len(set(values[at])), -at))

    roles = [{name.slots[at].role for name in group} for at in range(len(first.slots))]
    usable = [at for at in range(len(first.slots)) if len(roles[at]) == 1 and None not in values[at]]
    clocks = [at for at in usable if first.slots[at].role == "clock"]
    subs = [at for at in usable if first.slots[at].role == "sub"]
    pattern = [at for at in clocks if first.slots[at].clock == "pattern"]
    if pattern:
        return pattern[0], False
    fine = [at for at in clocks if varying[at] and RANKS[first.slots[at].clock] < RANKS["checkpoint"]]
    lone = [at for at in subs if len(group) == 1 and _parent_counts(first, at)]
    for indices in (fine, [at for at in subs if varying[at]], [at for at in clocks if varying[at]], lone, clocks):
        if indices:
            at = best(indices)
            return at, first.slots[at].role == "sub" and not _names_clock(first)
    free = [at for at in usable if varying[at] and first.slots[at].role == "free"]
    if free:
        at = best(free)
        if are_files or len(first.tokens) == 1 or _looks_like_steps(values[at], group, at):
            return at, not _names_clock(first)
        return None
    return _after_generic(first, are_files) if len(group) == 1 and usable else None


def _parent_counts(name: Name, at: int) -> bool:
    """Of a single name: whether the number before this one is a checkpoint's, or glued to its word (epoch2_1)."""
    parent = name.slots[at - 1]
    glued = parent.at > 0 and name.between(parent.at - 1) == ""
    return parent.clock == "checkpoint" or (parent.clock == "epoch" and glued)


def _names_clock(name: Name) -> bool:
    """Whether any word of a name is one of a clock, as in epoch_no_thresh_3."""
    return any(token.word in CLOCKS for token in name.tokens)


def _looks_like_steps(values: Sequence[int | None], group: Sequence[Name], at: int) -> bool:
    """Of folders, where model_1 and model_2 are two models: padded with zeros, or round numbers up to 100 and more."""
    padded = all(len(name.slots[at].token.text) >= 4 for name in group)
    return padded or (max(value or 0 for value in values) >= 100 and all((value or 0) % 10 == 0 for value in values))


def _after_generic(name: Name, is_file: bool) -> tuple[int, bool] | None:
    """The number of a single name that is bare, or, of a file, ends a name of generic words: model_000100.

    Folders model_1 and model_2 are two models; so are files model1 and model2, but for their zeros.
    """
    (slot, *more) = name.slots
    if more or slot.role != "free" or slot.at != len(name.tokens) - 1:
        return None
    if slot.at == 0:
        return 0, False
    generic = all(token.word in GENERIC for token in name.tokens[:-1])
    glued = name.between(slot.at - 1) == ""
    padded = len(slot.token.text) >= 4
    return (0, False) if is_file and generic and (padded or not glued) else None


def _following(group: Sequence[Name], at: int, others: Sequence[int]) -> set[int]:
    """The other numbers that only follow the step (the epoch beside it, a loss) and tell no series apart.

    They do if steps are distinct without them; else they belong to the series, clocks before measured values.
    """
    first = group[0]
    measured = {index for index in others if first.slots[index].role == "measured"}
    clocks = {index for index in others if first.slots[index].role == "clock" and _is_coarser(group, at, index)}
    for ignored in (measured | clocks, measured, set[int]()):
        kept = [index for index in others if index not in ignored]
        rows = {tuple(name.slots[index].token.text for index in (*kept, at)) for name in group}
        if len(rows) == len(group):
            return ignored
    return set()


def _is_coarser(group: Sequence[Name], at: int, index: int) -> bool:
    """Whether a number counts the same training in larger units than the step: epochs beside updates.

    A word says so for both (epoch=3-step=500). Where the step has no word, it must be at one rate: every update lies
    in its epoch, counted from 0 or from 1, for some number of updates per epoch (5 % off for uneven batches).
    """
    slots = group[0].slots
    if slots[at].words:
        return True
    coarse = slots[index]
    if coarse.at > 0 and coarse.words and group[0].between(coarse.at - 1) == "" and coarse.words[0] < coarse.at:
        return False
    pairs = [(name.slots[index].token.value or 0, name.slots[at].token.value or 0) for name in group]
    for start in (0, 1):
        least = max(step / (epoch + 1 - start) for epoch, step in pairs) if all(e >= start for e, _ in pairs) else None
        most = min((step / (epoch - start) for epoch, step in pairs if epoch > start), default=float("inf"))
        if least is not None and least <= 1.05 * most:
            return True
    return False


def _key(name: Name, step: Slot, ignored: Sequence[Slot]) -> Key:
    skip = {slot.at for slot in ignored}
    parts = []
    for at, token in enumerate(name.tokens):
        if at == step.at:
            parts.append("#")
        elif at in skip:
            parts.append("*")
        elif token.word:
            parts.append(CLOCKS.get(token.word, token.word))
        else:
            parts.append(str(token.value) if token.value is not None else token.text.lower())
    return tuple(parts)


def _labels(name: Name, step: Slot, ignored: Sequence[Slot]) -> tuple[str, str, str]:
    """Names of the series, the shortest first: without generic words at the ends, with them, and with the step's word
    as well."""
    numbers = [step, *ignored]
    all_words = {at for slot in numbers for at in (slot.at, *slot.words)}
    plain = _remaining(name, all_words)
    version = _VERSION.search(name.text)
    words = re.split(rf"([{re.escape(_SEPARATORS)}]+)", plain.removesuffix(version[1]) if version else plain)
    for end in (-1, 0):
        while words and (words[end].lower() in GENERIC or not words[end].strip(_SEPARATORS)):
            words.pop(end)
    short = "".join(words)
    return plain if short.isdigit() else short, plain, _remaining(name, {slot.at for slot in ignored} | {step.at})


def _remaining(name: Name, left: set[int]) -> str:
    """The name without some of its tokens and the separators around them."""
    pieces, start = [], 0
    for at in sorted(left):
        pieces.append(name.text[start : name.tokens[at].start])
        start = name.tokens[at].end
    pieces.append(name.text[start:])
    kept = [piece.strip(_SEPARATORS) for piece in pieces]
    return ("_" if "_" in name.text else "-").join(piece for piece in kept if piece)


def _unit(name: Name, step: Slot) -> str:
    """What the step counts: "epoch" or "episode" if its word, or the only clock's word of the name, says so."""
    if step.clock and step.clock != "pattern":
        return _UNITS.get(step.clock, "step")
    clocks = {CLOCKS[token.word] for token in name.tokens if token.word in CLOCKS}
    return _UNITS.get(clocks.pop(), "step") if len(clocks) == 1 else "step"


def without_alias(key: Key) -> Key:
    """A series' key without the words best, last, final."""
    return tuple(part for part in key if part not in ALIASES)


def without_version(key: Key) -> Key:
    """A series' key without the mark -v1 that Lightning adds to the name of a second file."""
    return key[:-2] if len(key) > 2 and key[-2] == "v" and key[-1].isdigit() else key
