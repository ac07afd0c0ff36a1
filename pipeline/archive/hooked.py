"""Bare parameters W_Q, W_in, W_E, …: TransformerLens' layouts and those of older grokking code, told apart by shapes.

    TransformerLens      W_E (vocab, d)  W_Q (h, d, e)  W_O (h, e, d)  W_in (d, f)  W_out (f, d)  W_U (d, vocab)
    older grokking code  W_E (d, vocab)  W_Q (h, e, d)  W_O (d, h·e)   W_in (f, d)  W_out (d, f)  W_U (d, vocab)

The width d of the residual stream is the size that all of them share; where it stands in a tensor tells its layout. A
tensor with d twice follows the others of its checkpoint.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.archive.names import words
from pipeline.archive.recipes import Op
from pipeline.archive.types import TensorHeader

_TURN: tuple[Op, ...] = (("permute", 1, 0),)
_TABLES = words("W_E W_pos W_token_type")
_READING = words("W_Q W_K W_V W_in W_gate")
"""Parameters that read the residual stream: d is their input."""
_WRITING = words("W_O W_out")
"""Parameters that write to it: d is their output."""
_MARKS = words("W_E W_U W_Q W_K W_V W_O")
"""At least one of these makes a checkpoint one of this kind."""

HookedCut = tuple[tuple[Op, ...], tuple[int, int], str]
"""(operations on the stored tensor, (out, in), orientation)"""


def parameter(name: str) -> str:
    """The bare parameter's name, ``W_K`` for TransformerLens' ``_W_K`` of grouped heads too."""
    leaf = re.split(r"[./]", name)[-1]
    return leaf.removeprefix("_") if leaf.startswith("_W_") else leaf


@dataclass(frozen=True)
class Hooked:
    """How a checkpoint keeps its bare parameters: the width d, whether inputs come first, lengths of biases by name."""

    width: int | None
    inputs_first: bool
    biases: Mapping[str, int]

    @staticmethod
    def of(tensors: Sequence[TensorHeader]) -> Hooked:
        """From a checkpoint's headers. `width` is None where no parameter has one of these names."""
        biases = {t.name: t.shape[0] for t in tensors if len(t.shape) == 1}
        family = [(parameter(t.name), t.shape) for t in tensors if len(t.shape) in (2, 3) and 0 not in t.shape]
        family = [(leaf, shape) for leaf, shape in family if leaf in _TABLES | _READING | _WRITING | {"W_U"}]
        if not any(leaf in _MARKS for leaf, _ in family):
            return Hooked(None, True, biases)
        sizes = Counter(size for _, shape in family for size in set(shape))
        clues = Counter(size for name, size in biases.items() if parameter(name) in ("b_O", "b_out"))
        clues += Counter(
            shape[-1] if leaf == "W_pos" else shape[0] for leaf, shape in family if leaf in ("W_pos", "W_U")
        )
        width = max(sizes, key=lambda size: (sizes[size], clues[size], -size))
        votes = [first for leaf, shape in family if (first := _inputs_first(leaf, shape, width)) is not None]
        old = any(leaf == "W_O" and len(shape) == 2 for leaf, shape in family)
        old = old and any(leaf == "W_Q" and len(shape) == 3 for leaf, shape in family)
        majority = 2 * sum(votes) - len(votes) or (-1 if old else 1)
        return Hooked(width, majority > 0, biases)

    def cut(self, name: str, shape: tuple[int, ...]) -> HookedCut | None:
        """How this tensor becomes a matrix (out, in); None when it is none of these parameters."""
        leaf = parameter(name)
        if self.width is None or leaf not in _TABLES | _READING | _WRITING | {"W_U", "W"}:
            return self._by_bias(name, leaf, shape)
        if leaf == "W_pos":
            return _matrix(shape, inputs_first=True) if len(shape) == 2 else None
        if leaf == "W":  # TransformerLens' heads: x @ W
            return _matrix(shape, inputs_first=True) if len(shape) == 2 and self.inputs_first else None
        told = _inputs_first(leaf, shape, self.width)
        if leaf == "W_U":  # (d, vocab) in both layouts
            return _matrix(shape, inputs_first=True if told is None else told) if len(shape) == 2 else None
        first = self.inputs_first if told is None else told
        if len(shape) == 2:
            return _matrix(shape, first)
        return _by_head(shape, self.width, leaf in _WRITING, first) if len(shape) == 3 and leaf not in _TABLES else None

    def _by_bias(self, name: str, leaf: str, shape: tuple[int, ...]) -> HookedCut | None:
        """``W_x`` (in, out) beside ``b_x`` (out): sparse autoencoders and hand-written layers."""
        if not leaf.startswith("W_") or len(shape) != 2 or shape[0] == shape[1]:
            return None
        length = self.biases.get(f"{name[: -len(leaf)]}b_{leaf.removeprefix('W_')}")
        return _matrix(shape, inputs_first=True) if length == shape[1] else None


def _inputs_first(leaf: str, shape: tuple[int, ...], width: int) -> bool | None:
    """Whether the input's axis comes before the output's, as x @ W wants; None where the shape does not tell.

    An embedding's input is the token: (vocab, d) has it first.
    """
    first, last = shape[-2] == width, shape[-1] == width
    if first == last or leaf == "W_pos":
        return None
    return first if leaf in _READING or leaf == "W_U" else last


def _matrix(shape: tuple[int, ...], inputs_first: bool) -> HookedCut:
    rows, cols = shape
    return (_TURN, (cols, rows), "in_out") if inputs_first else ((), (rows, cols), "out_in")


def _by_head(shape: tuple[int, ...], width: int, writing: bool, inputs_first: bool) -> HookedCut:
    """Projections kept by head, joined: head 0's rows (columns of W_O) come first."""
    heads, first, second = shape
    if width not in (first, second) and heads == width:  # (d, heads, e), as einsum code of other houses has it
        size = (width, first * second)
        return ((("reshape", *size),), size, "out_in") if writing else (
            (("reshape", *size), *_TURN), size[::-1], "in_out"
        )  # fmt: skip
    if writing:
        if inputs_first:  # (h, e, d)
            return (("reshape", heads * first, second), *_TURN), (second, heads * first), "in_out"
        return (
            (("permute", 1, 0, 2), ("reshape", first, heads * second)),
            (first, heads * second),
            "out_in",
        )  # (h, d, e)
    if inputs_first:  # (h, d, e)
        return (("permute", 0, 2, 1), ("reshape", heads * second, first)), (heads * second, first), "in_out"
    return (("reshape", heads * first, second),), (heads * first, second), "out_in"  # (h, e, d)
