"""What ingest notes of values while they pass: which tensors are not finite, and a small sketch of all weights.

Sketches of two checkpoints give the distance between them without reading a weight again: `distance(one, other)`
estimates ‖w − w′‖ with a relative error of about 5 %, whatever the weights look like. The sketch is a random linear map
to `WIDTH` numbers: entry j of a tensor goes to number j mod WIDTH, with a random sign per row of WIDTH entries. The
signs follow from the tensor's name, so that sketches of any two checkpoints can be subtracted.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable

import blake3
import numpy as np

WIDTH = 251
"""Numbers in a sketch: a prime, so that the columns of a matrix do not all fall into the same ones."""
SAMPLED = 2**20
"""At most about this many entries of a tensor enter the sketch: of a larger one, evenly spaced pieces."""
_PIECES = 256
_TABLES: dict[np.dtype, np.ndarray] = {}


def all_finite(values: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite; integers and booleans always are. No temporary of the size of float32."""
    if values.size == 0 or values.dtype.kind in "biu":
        return True
    if values.dtype.itemsize == 1:  # float8: a table of its 256 values
        if values.dtype not in _TABLES:
            every = np.arange(256, dtype=np.uint8).view(values.dtype).astype(np.float32)
            _TABLES[values.dtype] = np.isfinite(every)
        return bool(_TABLES[values.dtype][values.view(np.uint8)].all())
    if values.dtype.name == "bfloat16":  # all ones in the exponent
        return int((values.view(np.uint16) & 0x7FFF).max()) < 0x7F80
    if values.dtype.kind == "c":
        return bool(np.isfinite(values).all())
    with np.errstate(invalid="ignore"):
        return math.isfinite(float(values.max())) and math.isfinite(float(values.min()))


class Sketch:
    """The sketch of one checkpoint, fed tensor by tensor."""

    def __init__(self) -> None:
        self.numbers = np.zeros(WIDTH)

    def add(self, name: str, size: int, blocks: Iterable[np.ndarray]) -> None:
        """Adds a tensor of `size` entries that comes in consecutive `blocks` (of any shape, in C order)."""
        pieces = _pieces(size)
        sampled: list[np.ndarray] = []
        at = 0
        for block in blocks:
            flat = block.reshape(-1)
            for start, stop in pieces:
                if start < at + flat.size and stop > at:
                    sampled.append(flat[max(start - at, 0) : stop - at].astype(np.float64))
            at += flat.size
        values = np.concatenate(sampled) if sampled else np.zeros(0)
        if values.size == 0:
            return
        rows = -(-values.size // WIDTH)
        padded = np.zeros(rows * WIDTH)
        padded[: values.size] = values
        self.numbers += _signs(name, rows) @ padded.reshape(rows, WIDTH) * math.sqrt(size / values.size)

    def text(self) -> str:
        """For a JSON document, the inverse of `numbers_of`; empty where a number overflowed."""
        return base64.b64encode(self.numbers.astype("<f8").tobytes()).decode() if all_finite(self.numbers) else ""


def numbers_of(text: str) -> np.ndarray:
    """The (WIDTH,) float64 numbers of a sketch's text."""
    return np.frombuffer(base64.b64decode(text), dtype="<f8")


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """About the Frobenius distance of the two checkpoints that these sketches are of."""
    return float(np.linalg.norm(one - other))


def _pieces(size: int) -> list[tuple[int, int]]:
    """Which entries enter the sketch: all, or `_PIECES` evenly spaced runs of whole rows."""
    if size <= SAMPLED:
        return [(0, size)]
    length = SAMPLED // _PIECES // WIDTH * WIDTH
    return [(start, start + length) for start in (size * i // _PIECES for i in range(_PIECES))]


def _signs(name: str, rows: int) -> np.ndarray:
    """(rows,) of −1 and 1, the same for a name everywhere."""
    drawn = blake3.blake3(name.encode("utf-8", "surrogatepass")).digest(length=-(-rows // 8))
    return np.unpackbits(np.frombuffer(drawn, dtype=np.uint8))[:rows] * 2.0 - 1.0
