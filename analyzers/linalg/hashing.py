"""Pseudo-random numbers as functions of a position: nothing is stored, and any part can be made alone, on any device.

Integer arithmetic modulo 2^64, so that CPU and CUDA agree bit for bit.
"""

from __future__ import annotations

import math
import zlib

import torch

_FIRST = -0x61C8864680B583EB  # splitmix64's increment and multipliers (Steele, Lea & Flood 2014) as signed 64-bit
_SECOND = -0x40A7B892E31B1A47
_THIRD = -0x6B2FB644ECCEEE15


def mix(values: torch.Tensor, seed: int) -> torch.Tensor:
    """splitmix64 of values + seed: int64 → uniform int64 ≥ 0 (the top bit is cleared)."""
    x = values * _FIRST + _signed(seed * 0x9E3779B97F4A7C15 + 0x1234567)
    x = (x ^ _shifted(x, 30)) * _SECOND
    x = (x ^ _shifted(x, 27)) * _THIRD
    return _shifted(x ^ _shifted(x, 31), 1)


def signs(positions: torch.Tensor, seed: int) -> torch.Tensor:
    """One random bit for each position, int64 0 or 1."""
    return _shifted(mix(positions, seed ^ 0x5DEECE66D), 40) & 1


class Permutation:
    """A random permutation of 0..n−1 in O(1) memory: a Feistel network on a grid a × b ≥ n, walked until it is within.

    a·b exceeds n by less than √n + 1, so that hardly any position walks more than once. Each of `rounds` changes both
    halves: two of them are the four rounds after which a Feistel network is a pseudo-random permutation.
    """

    def __init__(self, n: int, seed: int, rounds: int = 2) -> None:
        self.n, self._seed, self._rounds = n, seed, rounds
        self._a = math.isqrt(n - 1) + 1 if n > 1 else 1
        self._b = -(-n // self._a)

    def __call__(self, positions: torch.Tensor) -> torch.Tensor:
        """Where each position goes; int64, any shape."""
        found = self._once(positions)
        outside = found >= self.n
        while bool(outside.any()):
            found = torch.where(outside, self._once(found), found)
            outside = found >= self.n
        return found

    def _once(self, positions: torch.Tensor) -> torch.Tensor:
        left, right = positions // self._b, positions % self._b
        for number in range(self._rounds):
            left = (left + mix(right, self._seed + 2 * number + 1)) % self._a
            right = (right + mix(left, self._seed + 2 * number + 2)) % self._b
        return left * self._b + right


def stable_seed(text: str) -> int:
    """A seed from a name, the same in every process (Python's own hash of strings is not)."""
    return zlib.crc32(text.encode())


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift to the right, which torch has not for signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value
