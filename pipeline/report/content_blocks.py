"""What the contents of checkpoints show, first in the page's summary: warnings open, notes behind a click."""

from __future__ import annotations

from pipeline.report.blocks import Block, Details, Prose, several
from pipeline.report.contents import Contents

SHOWN = 10
"""Warnings that stand open; the others are behind a click, and all are in /archive/contents."""


def content_blocks(contents: Contents) -> tuple[Block, ...]:
    """Blocks for the summary; none where the contents show nothing odd."""
    warnings = [str(row["text"]) for row in contents.findings if row["severity"] == "warning"]
    notes = [str(row["text"]) for row in contents.findings if row["severity"] != "warning"]
    blocks: list[Block] = [Prose(tuple(warnings[:SHOWN]))] if warnings else []
    if warnings[SHOWN:]:
        more = several(len(warnings) - SHOWN, "further warning")
        blocks.append(Details(f"{more} about the checkpoints' contents", (Prose(tuple(warnings[SHOWN:])),)))
    if notes:
        blocks.append(Details(f"{several(len(notes), 'note')} about the checkpoints' contents", (Prose(tuple(notes)),)))
    return tuple(blocks)
