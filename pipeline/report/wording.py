"""The page's own words in the unit of its runs: where these count epochs, a caption says "last epoch", not "last step".

Names of runs, parameters, files and options stay as they are, also where they hold the word "step".
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from pipeline.report.blocks import Block, Details, Gallery, PageTable, Prose, Section
from pipeline.report.step_units import STEP, word_of

_IN_NAMES = r"\w@./=:#`*+-"
_WORD = re.compile(rf"(?<![{_IN_NAMES}])([Ss])tep(s?)(?![\w@/=#`*+]|[.:-]\w)(?! of one parameter)")
_NUMBERED = re.compile(rf"(?<![{_IN_NAMES}])([Ss])tep(s?)(?= \d)")

_SENTENCES = ("reason", "note", "what to do")
"""Columns whose cells are sentences of ours."""


def in_unit(section: Section, unit: str) -> Section:
    """A section whose texts say what the steps count; other cells than sentences keep their words but for "step 12"."""
    word = word_of(unit)
    if word == STEP:
        return section
    blocks = tuple(_block(block, word) for block in section.blocks)
    return replace(section, title=said_in(section.title, word), blocks=blocks)


def said_in(text: str, word: str, pattern: re.Pattern[str] = _WORD) -> str:
    """The text with `word` in the place of "step"."""

    def put(match: re.Match[str]) -> str:
        return (word.capitalize() if match[1] == "S" else word) + match[2]

    return pattern.sub(put, text)


def _block(block: Block, word: str) -> Block:
    match block:
        case Prose():
            return replace(block, items=tuple(said_in(item, word) for item in block.items))
        case PageTable():
            patterns = [_WORD if column in _SENTENCES else _NUMBERED for column in block.columns]
            cells = tuple(tuple(map(said_in, row, [word] * len(row), patterns)) for row in block.rows)
            columns = tuple(said_in(column, word) for column in block.columns)
            return replace(block, caption=said_in(block.caption, word), columns=columns, rows=cells)
        case Gallery():
            return replace(block, images=tuple(_texts(image, word) for image in block.images))
        case Details():
            inner: tuple[Any, ...] = tuple(_block(one, word) for one in block.blocks)
            return replace(block, summary=said_in(block.summary, word), blocks=inner)


def _texts(image: Any, word: str) -> Any:
    texts = {name: said_in(getattr(image, name), word) for name in ("title", "caption", "alt")}
    return replace(image, **texts)
