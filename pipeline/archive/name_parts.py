"""The parts of a checkpoint's name: its words, its numbers, and what each number counts, as the words beside it tell.

parse("net_G-epoch=3-loss=0.12").slots: 3 counts epochs, 0.12 is a measured value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Role = Literal["clock", "sub", "free", "fixed", "measured"]
"""What a number in a name can be: `clock` counts training by its word, `sub` follows another number directly
(checkpoint_1_500), `free` is any other whole number, `fixed` describes the run (lr0.1, seed3, 7b) and `measured` is
what was measured at that time (loss=0.12, 12B tokens)."""

_CLOCK_WORDS = {
    "step": "step steps stp",
    "iteration": "iteration iterations iter iters itr it update updates batch batches ba frames frame samples kimg",
    "checkpoint": "checkpoint checkpoints chkpt ckpt cp snapshot",
    "epoch": "epoch epochs ep",
    "episode": "episode episodes",
}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


CLOCKS: Mapping[str, str] = {word: clock for clock, words in _CLOCK_WORDS.items() for word in words.split()}
"""Word → what a number beside it counts, the surest clock first."""
RANKS: Mapping[str, int] = {clock: rank for rank, clock in enumerate(_CLOCK_WORDS)}

# Words after which a number describes the run and counts no training.
_FIXED = _set(
    "seed lr wd bs r rank ranks alpha dim width depth hidden layer layers head heads fold cv split run exp experiment "
    "trial task version v ver expert experts part shard worker gpu node client tp pp mp dp fp bf int bit bits beta "
    "gamma tau eps dropout temp temperature size consolidated stage phase group"
)
_MEASURED = _set(
    "loss acc accuracy err error f auc map miou iou dice psnr ssim fid wer cer bleu rouge ppl perplexity score reward "
    "rewards return metric top mse mae rmse nll bpc elbo time tokens tok"
)
_SPLITS = frozenset(("val", "valid", "validation", "test", "train", "avg", "mean"))
GENERIC = _set(
    "model models net network weight weights param params state dict checkpoint checkpoints ckpt pytorch save saved "
    "snapshot policy best last final latest newest epoch epochs ep step steps iter global train training num unsharded "
    "hf run"
)
"""Words that name no series of their own."""
ALIASES = frozenset(("best", "last", "final", "latest", "newest"))

_DATE = r"(?:19|20)\d\d(?P<dash>[-_.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])"
# Hexadecimal digits that change between digits and letters more than once, or are many; 1e5 is a number.
_HASH = (
    r"(?<![^\W_])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?!\d+e\d+(?![^\W_]))(?=[0-9a-f]{7,64}(?![^\W_]))(?:\d+[a-f]+\d|[a-f]+\d+[a-f]|(?=[0-9a-f]{20})(?=\d*[a-f])[0-9a-f])"
    r"[0-9a-f]*)(?![^\W_])"
)
_TOKEN = re.compile(
    rf"(?P<hash>{_HASH})"
    rf"|(?P<stamp>(?<!\d){_DATE}(?P<time>[-_T +]\d\d[-_.:h]?\d\d(?:[-_.:m]?\d\d(?:[+]\d\d)?)?)?(?!\d))"
    r"|(?P<shard>\d{1,18}-of-\d{1,18}(?!\d))"
    r"|(?P<power>\d+(?:\.\d+)?[eE][-+]?\d+(?![^\W_]))"
    rf"|(?P<scaled>\d{{1,9}}(?:\.\d{{1,9}})?(?:[kKmM](?=[A-Z][a-z]|(?:{'|'.join(CLOCKS)})(?![^\W_]))"
    r"|[kKmMbBtT](?=[^A-Za-z0-9]|$)))"
    r"|(?P<decimal>\d+(?:\.\d+)+)"
    r"|(?P<number>\d+)"
    r"|(?P<word>[A-Z]*[a-z]+|[A-Z]+|[^\W\d_A-Za-z]+)"
)
_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_KINDS = ("hash", "stamp", "shard", "power", "scaled", "decimal", "number", "word")
_MAX_DIGITS = 18  # every step is an int64
_SECONDS = (1_200_000_000, 2_000_000_000)
"""Since 1970, from 2008 to 2033: so large a number without the word of a step tells the time."""


@dataclass(frozen=True)
class Token:
    """A word or a number of a name, with its place in it. `value` is that of a whole number. `means`: the word that a
    letter stands for."""

    kind: str
    text: str
    start: int
    end: int
    value: int | None = None
    means: str = ""

    @property
    def word(self) -> str:
        """A word in lower case, "" for a number."""
        return (self.means or self.text.lower()) if self.kind == "word" else ""


@dataclass(frozen=True)
class Slot:
    """A number of a name: the token's index, its role, and for a clock what it counts. `words` are the indices of the
    words that belong to it."""

    at: int
    token: Token
    role: Role
    clock: str = ""
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Name:
    """A parsed name."""

    text: str
    tokens: tuple[Token, ...]
    slots: tuple[Slot, ...]

    @property
    def skeleton(self) -> tuple[str, ...]:
        """What names of one form share: words in lower case, words of one clock as that clock, "#" for each number."""
        return tuple("#" if not token.word else CLOCKS.get(token.word, token.word) for token in self.tokens)

    def between(self, first: int) -> str:
        """The text between a token and the next one."""
        return self.text[self.tokens[first].end : self.tokens[first + 1].start]


def parse(text: str, step: tuple[int, int] | None = None) -> Name:
    """The parts of a file's stem or a folder's name. `step`: the characters that the user's pattern says are the
    step; they become a number with the clock "pattern"."""
    tokens = _tokens(text) if step is None else _tokens_around(text, step)
    return Name(text, tokens, _slots(tokens))


def joined(name: Name, first: int, last: int) -> Name:
    """The name with the numbers from token `first` to `last` read as one with separated thousands: step100_000."""
    parts = name.tokens[first : last + 1]
    text = name.text[parts[0].start : parts[-1].end]
    number = Token("number", text, parts[0].start, parts[-1].end, int("".join(part.text for part in parts)))
    tokens = (*name.tokens[:first], number, *name.tokens[last + 1 :])
    return Name(name.text, tokens, _slots(tokens))


def spelled_out(name: Name, letters: Mapping[int, str]) -> Name:
    """The name with some of its letters, by index, read as the words that they stand for: e3_s500."""
    tokens = tuple(replace(token, means=letters.get(at, token.means)) for at, token in enumerate(name.tokens))
    return Name(name.text, tokens, _slots(tokens))


def whole_number(text: str) -> int | None:
    """The value of "500", "20k", "1.5M" or a date without separators; None for any other text."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    match = _TOKEN.fullmatch(text)
    return _token(match).value if match else None


def _tokens(text: str, offset: int = 0) -> tuple[Token, ...]:
    return tuple(_token(match, offset) for match in _TOKEN.finditer(text))


def _token(match: re.Match[str], offset: int = 0) -> Token:
    kind, text = str(match.lastgroup), match.group()
    kind = next(
        name for name in ("hash", "stamp", "shard", "power", "scaled", "decimal", "number", "word") if match[name]
    )
    value: int | None = None
    if kind == "scaled":
        value = round(float(text[:-1]) * _UNITS[text[-1].lower()])
        kind = "number"
    elif kind == "number":
        value = int(text) if len(text) <= _MAX_DIGITS else None
    elif kind == "stamp" and match["time"]:
        kind = "time"
    return Token(kind, text, match.start() + offset, match.end() + offset, value)


def _tokens_around(text: str, step: tuple[int, int]) -> tuple[Token, ...]:
    start, end = step
    number = Token("step", text[start:end], start, end, whole_number(text[start:end].strip()))
    return (*_tokens(text[:start]), number, *_tokens(text[end:], end))


def _slots(tokens: tuple[Token, ...]) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for at, token in enumerate(tokens):
        if not token.word:
            slots.append(_slot(tokens, at, slots))
    return tuple(slots)


def _slot(tokens: tuple[Token, ...], at: int, earlier: list[Slot]) -> Slot:
    """One number, by the words beside it."""
    token = tokens[at]
    before = tokens[at - 1].word if at else ""
    after = tokens[at + 1].word if at + 1 < len(tokens) else ""
    glued = bool(after) and tokens[at + 1].start == token.end
    if token.kind == "step":
        return Slot(at, token, "clock", "pattern", (at - 1,) if before in CLOCKS else ())
    if token.kind == "shard" and before in CLOCKS:  # epoch-3-of-50
        return Slot(at, replace(token, value=int(token.text.partition("-")[0])), "clock", CLOCKS[before], (at - 1,))
    if token.kind == "decimal" and before in CLOCKS and before not in _MEASURED:
        # epoch=1.0 is a whole number; epoch=0.5 is none, and tells no series apart.
        whole, _, fraction = token.text.partition(".")
        if set(fraction) == {"0"} and len(whole) <= _MAX_DIGITS:
            return Slot(at, replace(token, value=int(whole)), "clock", CLOCKS[before], (at - 1,))
        return Slot(at, token, "measured", "", (at - 1,))
    alone = token.kind == "decimal" and (not before or before in _SPLITS)
    if before in _MEASURED or token.kind == "time" or alone:
        return Slot(at, token, "measured", "", _measured_words(tokens, at))
    if token.value is None:
        return Slot(at, token, "fixed")
    clock = _clock(tokens, at, before, after)
    if clock and not (glued and clock[1] < at and len(after) == 1):
        return Slot(at, token, "clock", clock[0], (clock[1],))
    if token.text[-1] in "bBtT" and any(slot.role == "clock" for slot in earlier):  # step-50K-105b: tokens
        return Slot(at, token, "measured")
    if before in _FIXED or glued or token.text[-1] in "mMbBtT":  # pythia-70m
        return Slot(at, token, "fixed")
    if _SECONDS[0] <= token.value < _SECONDS[1]:
        return Slot(at, token, "measured")
    parent = earlier[-1] if earlier and earlier[-1].at == at - 1 else None
    return Slot(at, token, "sub" if parent is not None and parent.role in ("clock", "free") else "free")


def _clock(tokens: tuple[Token, ...], at: int, before: str, after: str) -> tuple[str, int] | None:
    """What a number counts by the word before it, else by the word after it, and that word's index. In a name that
    begins with a number words follow their numbers: 100_steps_5_epochs."""
    leads = not tokens[0].word
    is_next_numbers = at + 2 < len(tokens) and not tokens[at + 2].word
    beside = [(before, at - 1), (after if leads or not is_next_numbers else "", at + 1)]
    for word, index in reversed(beside) if leads else beside:
        if word in CLOCKS:
            return CLOCKS[word], index
    return None


def _measured_words(tokens: tuple[Token, ...], at: int) -> tuple[int, ...]:
    """The words that say what was measured, and the letter of its unit: val_loss=0.12, tokens12B."""
    first = at
    while first and tokens[first - 1].word in _MEASURED | _SPLITS:
        first -= 1
    unit = at + 1 < len(tokens) and len(tokens[at + 1].word) == 1 and tokens[at + 1].start == tokens[at].end
    return (*range(first, at), *((at + 1,) if unit else ()))


def is_mark(slot: Slot) -> bool:
    """Whether a number is a date, a time or a hash: it tells two files apart and says nothing of what they hold."""
    value = slot.token.value
    return slot.token.kind in ("hash", "stamp", "time") or (
        value is not None and slot.role == "measured" and _SECONDS[0] <= value < _SECONDS[1]
    )


def describes_run(name: Name, slot: Slot) -> bool:
    """Whether the word before a number says that it describes the run: lr0.1, seed3."""
    return slot.at > 0 and name.tokens[slot.at - 1].word in _FIXED
