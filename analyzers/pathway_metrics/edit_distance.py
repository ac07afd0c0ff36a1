"""Levenshtein distances between pathways: rapidfuzz on the CPU, or a bit-parallel kernel in tensor operations.

Both are exact. The kernel (Myers 1999 in Hyyrö's 2003 block form, 62 bits to a word so that a signed 64-bit sum never
overflows) runs on any device, and on the CPU where rapidfuzz is not installed.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch

from analyzers.pathway_metrics.pathways import Pathways

BITS = 62
_FULL = (1 << BITS) - 1
_STATE_BYTES = 64 * 2**20


def has_rapidfuzz() -> bool:
    """Whether rapidfuzz is installed."""
    return importlib.util.find_spec("rapidfuzz") is not None


def all_pairs(pathways: Pathways, device: torch.device | None = None, workers: int = 1) -> np.ndarray:
    """(N, N) distances, uint16, symmetric with zeros on the diagonal. Equal pathways are compared once."""
    first, inverse = _distinct(pathways)
    distinct = Pathways(pathways.tokens[first], pathways.lengths[first])
    on_gpu = device is not None and device.type != "cpu"
    if on_gpu or not has_rapidfuzz():
        square = _kernel_all(distinct, device or torch.device("cpu"))
    else:
        square = _rapidfuzz_all(distinct, workers)
    if len(first) == len(pathways):
        return square
    return square[inverse[:, None], inverse[None, :]]


def some_pairs(
    pathways: Pathways, left: np.ndarray, right: np.ndarray, device: torch.device | None = None
) -> np.ndarray:
    """(P,) distances, uint16, of the pairs (left[i], right[i])."""
    on_gpu = device is not None and device.type != "cpu"
    if on_gpu or not has_rapidfuzz():
        return _kernel_pairs(pathways, left, right, device or torch.device("cpu"))
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    texts = as_texts(pathways)
    found = cpdist([texts[i] for i in left], [texts[i] for i in right], scorer=Levenshtein.distance, dtype=np.uint16)
    return np.asarray(found)


def _distinct(pathways: Pathways) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one pathway of each kind, in order of first appearance, and for each row which kind it is."""
    rows = np.ascontiguousarray(pathways.tokens)
    if rows.shape[1] == 0:
        return np.zeros(min(1, len(rows)), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    kinds: dict[bytes, int] = {}
    inverse = np.array([kinds.setdefault(row.tobytes(), len(kinds)) for row in rows], dtype=np.int64)
    _, first = np.unique(inverse, return_index=True)
    return first, inverse


def as_texts(pathways: Pathways) -> list[str]:
    """Each pathway as a text of one letter per token: a code below 256 where so few tokens occur, which is fastest."""
    used, codes = np.unique(pathways.tokens, return_inverse=True)
    # Code 0 is the filler −1 where there is one; the surrogates that UTF-32 forbids are stepped over.
    points = np.arange(len(used), dtype=np.uint32)
    points += np.where(points >= 0xD800, 0x800, 0).astype(np.uint32)
    letters = points[codes.reshape(pathways.tokens.shape)].astype("<u4")
    return [row[:length].tobytes().decode("utf-32-le") for row, length in zip(letters, pathways.lengths, strict=True)]


def _rapidfuzz_all(pathways: Pathways, workers: int) -> np.ndarray:
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    texts = as_texts(pathways)
    return np.asarray(cdist(texts, texts, scorer=Levenshtein.distance, dtype=np.uint16, workers=workers))


def _kernel_all(pathways: Pathways, device: torch.device) -> np.ndarray:
    count = len(pathways)
    table, tokens, lengths = _tables(pathways, device)
    square = torch.zeros(count, count, dtype=torch.int32, device=device)
    every = torch.arange(count, device=device)
    chunk = max(1, _STATE_BYTES // (8 * max(1, table.shape[2]) * count))
    for start in range(0, count, chunk):
        rows = every[start : start + chunk]
        left = rows.repeat_interleave(count - start)
        right = every[start:].repeat(len(rows))
        found = _distances(table, tokens, lengths, left, right)
        square[start : start + chunk, start:] = found.view(len(rows), -1)
    square = torch.triu(square, 1)
    return (square + square.T).cpu().numpy().astype(np.uint16)


def _kernel_pairs(pathways: Pathways, left: np.ndarray, right: np.ndarray, device: torch.device) -> np.ndarray:
    table, tokens, lengths = _tables(pathways, device)
    chunk = max(1, _STATE_BYTES // (8 * max(1, table.shape[2])))
    parts = []
    for start in range(0, len(left), chunk):
        pair = [torch.from_numpy(side[start : start + chunk].astype(np.int64)).to(device) for side in (left, right)]
        parts.append(_distances(table, tokens, lengths, *pair).cpu().numpy())
    return np.concatenate(parts).astype(np.uint16) if parts else np.zeros(0, dtype=np.uint16)


def _tables(pathways: Pathways, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each token stands in each pathway, as bits: (N, V + 1, words) int64; tokens (N, T), the filler as V."""
    used, codes = np.unique(pathways.tokens[pathways.tokens >= 0], return_inverse=True)
    count, longest = pathways.tokens.shape
    tokens = np.full((count, longest), len(used), dtype=np.int64)
    tokens[pathways.tokens >= 0] = codes
    words = max(1, -(-longest // BITS))
    table = np.zeros((count, len(used) + 1, words), dtype=np.int64)
    rows, at = np.nonzero(pathways.tokens >= 0)
    np.bitwise_or.at(table, (rows, tokens[rows, at], at // BITS), np.int64(1) << (at % BITS))
    return (
        torch.from_numpy(table).to(device),
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(pathways.lengths.astype(np.int64)).to(device),
    )


def _distances(
    table: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """(P,) int32 distances of pairs; the left pathway is the pattern, the right one is read token by token."""
    words = table.shape[2]
    pattern, text = lengths[left], lengths[right]
    # The row of the matrix that is followed is the pattern's last: its bit in its last word.
    last_word = (pattern - 1).clamp(min=0) // BITS
    last_bit = (pattern - 1).clamp(min=0) % BITS
    score = pattern.clone()
    plus = [torch.full_like(left, _FULL) for _ in range(words)]
    minus = [torch.zeros_like(left) for _ in range(words)]
    for position in range(int(text.max()) if len(text) else 0):
        token = tokens[right, position]
        alive = position < text
        matches = table[left, token]
        carry_plus = torch.ones_like(left)  # the matrix's top row grows by one for each column
        carry_minus = torch.zeros_like(left)
        for word in range(words):
            vp, vn = plus[word], minus[word]
            eq = matches[:, word]
            xv = eq | vn
            eq = eq | carry_minus
            xh = ((((eq & vp) + vp) & _FULL) ^ vp) | eq
            ph = vn | (~(xh | vp) & _FULL)
            mh = vp & xh
            here = alive & (last_word == word)
            change = ((ph >> last_bit) & 1) - ((mh >> last_bit) & 1)
            score = score + torch.where(here, change, 0)
            out_plus, out_minus = ph >> (BITS - 1), mh >> (BITS - 1)
            ph = ((ph << 1) & _FULL) | carry_plus
            mh = ((mh << 1) & _FULL) | carry_minus
            plus[word] = mh | (~(xv | ph) & _FULL)
            minus[word] = ph & xv
            carry_plus, carry_minus = out_plus, out_minus
    return torch.where(pattern == 0, text, score).to(torch.int32)
