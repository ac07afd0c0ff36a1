"""How the rows of a file's matrix become those of the matrices that transformers has in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.archive.fused import FusedRows, heads_of, row_cuts
from pipeline.archive.recipes import Op
from pipeline.archive.renaming import StoredName

AS_STORED = "as_stored"
"""What follows the name of a matrix whose rows cannot be brought into their order in memory: it has no counterpart."""


@dataclass(frozen=True)
class StoredPiece:
    """A part of a matrix (rows, cols), or all of it: what follows its name, and the operations that leave it."""

    suffix: str
    kind: str | None
    rows: int
    ops: tuple[Op, ...] = ()


def pieces_of(
    path: str, rows: int, cols: int, config: Mapping[str, Any], stored: StoredName | None
) -> tuple[StoredPiece, ...]:
    """The matrices within one of this canonical path; () when it is one matrix as it stands.

    Names that every tool shares are cut by the config; others as `stored` tells.
    """
    stored = stored or StoredName()
    cuts = [] if stored.alternating else row_cuts(path, rows, cols, config)
    pieces = tuple(StoredPiece(cut.suffix, cut.kind, cut.rows, cut.ops(cols)) for cut in cuts) or _shares(
        rows, cols, stored
    )
    if not stored.rotary:
        return pieces
    pieces = pieces or (StoredPiece("", None, rows),)
    if len(pieces) != len(stored.rotary):
        return pieces
    heads = heads_of(config, path)
    return tuple(
        _halves_apart(piece, cols, heads.heads if heads else None) if rotary else piece
        for piece, rotary in zip(pieces, stored.rotary, strict=True)
    )


def _shares(rows: int, cols: int, stored: StoredName) -> tuple[StoredPiece, ...]:
    """Equal shares of the rows, one after another or in turn."""
    count = len(stored.parts)
    if not count or rows % count:
        return ()
    each = rows // count
    starts = [(at, rows, count) if stored.alternating else (at * each, (at + 1) * each, 1) for at in range(count)]
    return tuple(
        StoredPiece(part, None, each, FusedRows(part, "", each, (), 0, *where).ops(cols))
        for part, where in zip(stored.parts, starts, strict=True)
    )


def _halves_apart(piece: StoredPiece, cols: int, heads: int | None) -> StoredPiece:
    """The piece with each head's rows in two halves, where they alternate on disk."""
    if heads is None or piece.rows % (2 * heads):
        return StoredPiece(f"{piece.suffix}.{AS_STORED}".lstrip("."), piece.kind, piece.rows, piece.ops)
    half = piece.rows // heads // 2
    apart: tuple[Op, ...] = (
        ("reshape", heads, half, 2, cols),
        ("permute", 0, 2, 1, 3),
        ("reshape", piece.rows, cols),
    )
    return StoredPiece(piece.suffix, piece.kind, piece.rows, (*piece.ops, *apart))
