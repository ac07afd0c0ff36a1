"""What a page is made of: sections of prose, tables and images, as plain data for the template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.figures import Image

LONG = 30
"""Characters of a cell above which it is broken anywhere."""
PAPER_CHARACTERS = 110
"""Characters that fit side by side on a printed page."""


def _narrowest(cell: str) -> int:
    """Characters of the narrowest column that holds a cell without breaking a word of it."""
    return 10 if len(cell) > LONG else max(map(len, cell.replace("-", "- ").split()), default=0)


@dataclass(frozen=True)
class Prose:
    """One paragraph, or a list where there are several items."""

    items: tuple[str, ...]
    kind: str = "prose"


@dataclass(frozen=True)
class PageTable:
    """Cells are text, already formatted; `numeric` columns are set right-aligned."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    kind: str = "table"

    @property
    def is_wide(self) -> bool:
        """Whether its columns do not fit side by side on paper, where every row becomes a list of its cells."""
        columns = zip(self.columns, *self.rows, strict=True)
        return sum(1 + max(map(_narrowest, column)) for column in columns) > PAPER_CHARACTERS


@dataclass(frozen=True)
class Gallery:
    """Images side by side."""

    images: tuple[Image, ...]
    kind: str = "gallery"


@dataclass(frozen=True)
class Details:
    """Blocks behind a click (open in print)."""

    summary: str
    blocks: tuple[Any, ...]
    kind: str = "details"


Block = Prose | PageTable | Gallery | Details


@dataclass(frozen=True)
class Section:
    """A heading with its blocks; `tone` "notice" sets it in a box."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    tone: str = ""


def number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """A number as a reader wants it: "0.0123", "1.2e+05", "42", "–" where there is none; "+3" with `sign`."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str):
        return value
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e6:
        text = f"{int(value):{'+' if sign else ''}d}"
    else:
        text = f"{value:{'+' if sign else ''}.{digits}g}"
    return text.replace("-", "−")


def from_rows(
    caption: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], limit: int | None = None
) -> PageTable:
    """A table of the named columns (key → heading); columns that are empty in every row are left out."""
    there = {k: h for k, h in columns.items() if any(row.get(k) not in (None, "") for row in rows)}
    numeric = tuple(all(not isinstance(row.get(k), str) or row.get(k) == "" for row in rows) for k in there)
    cells = tuple(tuple(number(row.get(k)) for k in there) for row in rows[:limit])
    more = f" The first {limit} of {len(rows)}." if limit is not None and len(rows) > limit else ""
    return PageTable(caption + more, tuple(there.values()), cells, numeric)


def gallery(images: Iterable[Image | None]) -> tuple[Gallery, ...]:
    """The figures that there are, in one gallery; nothing where there are none."""
    there = tuple(image for image in images if image is not None)
    return (Gallery(there),) if there else ()


def several(count: int, noun: str, plural: str | None = None) -> str:
    """ "1 run", "3 runs"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
