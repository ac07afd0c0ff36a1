"""Edit distances: two exact methods and the textbook's table agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.pathway_metrics import edit_distance
from analyzers.pathway_metrics.pathways import Pathways


def textbook(a: list[int], b: list[int]) -> int:
    """Wagner and Fischer's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def packed(lists: list[list[int]]) -> Pathways:
    """Lists of tokens as pathways."""
    lengths = np.array([len(one) for one in lists], dtype=np.int64)
    tokens = np.full((len(lists), int(lengths.max(initial=0))), -1, dtype=np.int32)
    for row, one in enumerate(lists):
        tokens[row, : len(one)] = one
    return Pathways(tokens, lengths)


def kernel(pathways: Pathways) -> np.ndarray:
    """All pairs by the tensor kernel, whatever is installed."""
    return edit_distance._kernel_all(pathways, torch.device("cpu"))


LISTS = st.lists(st.lists(st.integers(0, 6), max_size=9), min_size=1, max_size=6)
# Lengths around the kernel's words of 62 bits: a carry that is lost shows only beyond one word.
LONG = st.lists(st.lists(st.integers(0, 3), min_size=55, max_size=140), min_size=2, max_size=4)


@given(st.one_of(LISTS, LONG))
@settings(max_examples=80, deadline=None)
def test_both_methods_give_the_textbooks_distances(lists: list[list[int]]) -> None:
    expected = np.array([[textbook(a, b) for b in lists] for a in lists])
    np.testing.assert_array_equal(kernel(packed(lists)), expected)
    np.testing.assert_array_equal(edit_distance.all_pairs(packed(lists)), expected)
    left, right = (index.ravel() for index in np.indices(expected.shape))
    np.testing.assert_array_equal(edit_distance.some_pairs(packed(lists), left, right), expected.ravel())
    on_device = edit_distance._kernel_pairs(packed(lists), left, right, torch.device("cpu"))
    np.testing.assert_array_equal(on_device, expected.ravel())


def test_without_rapidfuzz_the_kernel_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_distance, "has_rapidfuzz", lambda: False)
    lists = [[1, 2, 3], [1, 3], [1, 2, 3], []]
    expected = np.array([[textbook(a, b) for b in lists] for a in lists])
    np.testing.assert_array_equal(edit_distance.all_pairs(packed(lists)), expected)


def test_more_tokens_than_one_byte_holds_are_told_apart() -> None:
    """Beyond 256 letters, and over the code points that no text may hold."""
    lists = [list(range(start, start + 70)) for start in range(0, 66000, 70)]
    texts = edit_distance.as_texts(packed(lists))
    assert len(set("".join(texts))) == len(lists) * 70
    assert edit_distance.all_pairs(packed(lists[:3]))[0, 2] == 70
