r"""PEFT's patterns of module names, matched in time that grows with pattern times name whatever the pattern is.

`rank_pattern` and `alpha_pattern` hold regular expressions that come with an archive, and Python's engine takes for
ever on `(a|a)*b`. Here all states are followed at once (Thompson 1968); each single character of a pattern, such as
`[a-z]` or `\d`, is still told by Python. References and look-around, which need more than states, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

MAX_PATTERN = 1000
MAX_STATES = 4000
MAX_DEPTH = 50

_RUNAWAY = re.compile(r"[+*}]\)[+*{]|\([^()]*[+*][^()]*\)[+*{]")
_LITERAL = re.compile(r"(?:[\w.\- ]|\\[.\-])*")
_ATOM = re.compile(
    r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[dDsSwW]|\\[^0-9a-zA-Z]|\\[tnrfv]|[^\\\[\](){}*+?|^$]|[\]}]", re.DOTALL
)
_REPEAT = re.compile(r"([*+?])|\{(\d{1,4})\}|\{(\d{0,4}),(\d{0,4})\}")


def names_module(pattern: str, module: str) -> bool:
    r"""Whether re.match(r"(.*\.)?(PATTERN)$", module) holds, which is PEFT's rule. ValueError: what is wrong with the
    pattern, as the end of a sentence that begins with it."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"has {len(pattern)} characters; more than {MAX_PATTERN} are refused")
    if _RUNAWAY.search(pattern):
        raise ValueError("repeats a repetition, which may never end in other tools: not used")
    if _LITERAL.fullmatch(pattern):
        # No repetition and no branch: Python's engine is quick.
        return _literal(pattern).match(module) is not None
    return _program(pattern).matches(module)


@lru_cache(maxsize=4096)
def _literal(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?{pattern}$")


@lru_cache(maxsize=256)
def _program(pattern: str) -> _Program:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression ({error})") from error
    return _Parser(rf"(.*\.)?({pattern})$").program()


Fragment = list["_Step"]


@dataclass(frozen=True)
class _Step:
    """One instruction: take a character that `atom` matches, go to several places (`jumps`, relative), or stand at an
    `anchor`."""

    atom: re.Pattern[str] | None = None
    jumps: tuple[int, ...] = ()
    anchor: str = ""


@dataclass(frozen=True)
class _Program:
    steps: tuple[_Step, ...]

    def matches(self, text: str) -> bool:
        """Whether a prefix of the text matches."""
        states = self._reached({0}, text, 0)
        for at, character in enumerate(text):
            if len(self.steps) in states:
                return True
            after = {state + 1 for state in states if (atom := self.steps[state].atom) and atom.match(character)}
            states = self._reached(after, text, at + 1)
        return len(self.steps) in states

    def _reached(self, states: set[int], text: str, at: int) -> set[int]:
        """All states that are reached without taking a character."""
        reached, stack = set(states), list(states)
        while stack:
            state = stack.pop()
            for target in self._targets(state, text, at):
                if target not in reached:
                    reached.add(target)
                    stack.append(target)
        return reached

    def _targets(self, state: int, text: str, at: int) -> Iterator[int]:
        if state == len(self.steps) or (step := self.steps[state]).atom is not None:
            return
        if step.anchor == "^":
            if at == 0:
                yield state + 1
        elif step.anchor == "$":
            if text[at:] in ("", "\n"):
                yield state + 1
        else:
            yield from (state + jump for jump in step.jumps)


class _Parser:
    """A pattern that Python has accepted, into a program."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0

    def program(self) -> _Program:
        fragment = self._branches(0)
        if self._at < len(self._pattern):
            raise ValueError("has an extra closing bracket")
        return _Program(tuple(fragment))

    def _branches(self, depth: int) -> Fragment:
        if depth > MAX_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_DEPTH}")
        branches = [self._sequence(depth)]
        while self._take("|"):
            branches.append(self._sequence(depth))
        fragment = branches.pop()
        for branch in reversed(branches):
            either = [_Step(jumps=(1, len(branch) + 2)), *branch, _Step(jumps=(len(fragment) + 1,))]
            fragment = _checked(either + fragment)
        return fragment

    def _sequence(self, depth: int) -> Fragment:
        fragment: Fragment = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            fragment = _checked(fragment + self._repeated(self._single(depth)))
        return fragment

    def _single(self, depth: int) -> Fragment:
        if self._take("("):
            if self._pattern.startswith("?", self._at) and not self._take("?:"):
                named = re.compile(r"\?P<\w+>").match(self._pattern, self._at)
                if named is None:
                    raise ValueError(
                        "uses lookaround, backreferences or flags, which are not supported in a file's pattern"
                    )
                self._at = named.end()
            inside = self._branches(depth + 1)
            if not self._take(")"):
                raise ValueError("has an unclosed bracket")
            return inside
        for anchor in "^$":
            if self._take(anchor):
                return [_Step(anchor=anchor)]
        atom = _ATOM.match(self._pattern, self._at)
        if atom is None and self._take("{"):
            return [_Step(atom=re.compile(r"\{"))]
        if atom is None:
            raise ValueError(f"holds {self._pattern[self._at : self._at + 8]!r}: not supported in a file's pattern")
        self._at = atom.end()
        return [_Step(atom=re.compile(atom[0]))]

    def _repeated(self, fragment: Fragment) -> Fragment:
        while (repeat := _REPEAT.match(self._pattern, self._at)) is not None:
            self._at = repeat.end()
            if self._take("+"):
                raise ValueError("holds a possessive repetition: not supported in a file's pattern")
            self._take("?")
            least, most = _bounds(repeat)
            if (least + (most or 1)) * (len(fragment) + 2) > MAX_STATES:
                raise ValueError(f"takes more than {MAX_STATES} states")
            many = fragment * least
            if most is None:
                loop = [_Step(jumps=(1, len(fragment) + 2)), *fragment, _Step(jumps=(-len(fragment) - 1,))]
                fragment = many + loop
            else:
                maybe = [_Step(jumps=(1, len(fragment) + 1)), *fragment]
                fragment = many + maybe * (most - least)
        return fragment

    def _take(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True


def _bounds(repeat: re.Match[str]) -> tuple[int, int | None]:
    sign, exactly, least, most = repeat.groups()
    if sign:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
    if exactly:
        return int(exactly), int(exactly)
    return int(least or 0), int(most) if most else None


def _checked(fragment: Fragment) -> Fragment:
    if len(fragment) > MAX_STATES:
        raise ValueError(f"takes more than {MAX_STATES} states")
    return fragment
