"""A Haar-random orthogonal matrix of which only that much is drawn as is asked for.

An iteration sees a matrix through its products with vectors. Drawing all of a Haar matrix costs O(d³), answering t
questions about it O(d t²), with exactly the same law: the principle of deferred decisions (Lu 2021, 'Householder
Dice', 2101.07464).
"""

from __future__ import annotations

import numpy as np
import torch

_NEGLIGIBLE = 1e-10
"""Of a block's norm: what is left of a question below it has been answered."""


class _Space:
    """R^d of which the first `visible` coordinates mean something and the others are any orthonormal basis.

    A vector is (visible + hidden seen so far,): a Gaussian's part in the hidden coordinates not seen yet is one new
    coordinate, along it, of size χ. So an embedding of 30 522 rows costs what its 384 columns cost.
    """

    def __init__(self, dimension: int, visible: int, generator: np.random.Generator) -> None:
        self.visible, self.hidden = visible, dimension - visible
        self.seen, self.generator = 0, generator

    @property
    def width(self) -> int:
        """Coordinates in use."""
        return self.visible + self.seen

    def gaussian(self, count: int) -> torch.Tensor:
        """(width, count) standard Gaussian of R^d; the width has grown by what it needed."""
        first, new = self.width, min(count, self.hidden - self.seen)
        drawn = self.generator.standard_normal((first + new, count))
        for i in range(new):
            drawn[first + i, :i] = 0.0
            drawn[first + i, i] = np.sqrt(self.generator.chisquare(self.hidden - self.seen))
            self.seen += 1
        return torch.from_numpy(drawn)


class LazyHaar:
    """H, Haar-distributed in O(d): H x and Hᵀ y for vectors that may depend on all answers before.

    What is known is H A = B, for orthonormal A and B. Given that, H maps the complement of A to that of B as a Haar
    matrix of those would (the Haar measure is invariant under the two subgroups that fix A and B): the image of a new
    unit vector is uniform on the unit sphere of the complement of B, independently of all that was seen. `inputs` and
    `outputs`: how many coordinates of either side matter to the caller.
    """

    def __init__(self, dimension: int, inputs: int, outputs: int, generator: np.random.Generator) -> None:
        self.spaces = (_Space(dimension, inputs, generator), _Space(dimension, outputs, generator))
        self.frames = [torch.zeros((space.width, 0), dtype=torch.float64) for space in self.spaces]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """H x, (outputs + hidden, b), for x (inputs or more, b); float64."""
        return self._answer(0, x)

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        """Hᵀ y, (inputs + hidden, b), for y (outputs or more, b)."""
        return self._answer(1, y)

    def _answer(self, side: int, x: torch.Tensor) -> torch.Tensor:
        own, other = side, 1 - side
        known = self._widened(own)
        x = _padded(x, known.shape[0])
        inside, rest = _without(known, x)
        asked, part = torch.linalg.qr(rest)
        size, whole = part.diagonal().abs(), torch.linalg.vector_norm(x)
        answer_known = self._widened(other)
        if not bool((size > 1e-3 * whole / x.shape[1]).all()):  # some of it was asked before
            turn, sizes, mixed = torch.linalg.svd(part)
            new = sizes > _NEGLIGIBLE * whole
            if not bool(new.any()):
                return answer_known @ inside
            asked, triangle = torch.linalg.qr(_without(known, asked @ turn[:, new])[1])  # small parts, cleaned
            asked, part = asked * _signs(triangle), sizes[new, None] * mixed[new]
        drawn = self.spaces[other].gaussian(asked.shape[1])
        answer_known = self._widened(other)
        free = _without(answer_known, drawn)[1]
        image, triangle = torch.linalg.qr(free)
        image = image * _signs(triangle)  # as `haar_frame`: no bias in sign
        self.frames[own] = torch.cat([known, asked], dim=1)
        self.frames[other] = torch.cat([answer_known, image], dim=1)
        return answer_known @ inside + image @ part

    def _widened(self, side: int) -> torch.Tensor:
        self.frames[side] = _padded(self.frames[side], self.spaces[side].width)
        return self.frames[side]


def _padded(x: torch.Tensor, width: int) -> torch.Tensor:
    """With rows of zeros: coordinates that were not seen when x was made."""
    missing = width - x.shape[0]
    return torch.cat([x, x.new_zeros((missing, x.shape[1]))]) if missing > 0 else x


def _without(known: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """knownᵀ x and what is left of x, orthogonal to rounding."""
    inside = known.T @ x
    rest = x - known @ inside
    again = known.T @ rest
    return inside + again, rest - known @ again


def _signs(triangle: torch.Tensor) -> torch.Tensor:
    """That make the diagonal of QR's second factor positive."""
    return torch.where(triangle.diagonal() < 0, -1.0, 1.0)
