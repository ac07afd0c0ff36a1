"""Temporaries of a worker do not cost page faults again and again."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from pipeline.compute.allocator import collector_spared

CHILD = """
import resource, sys
import numpy as np
from pipeline.compute.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    print("kept" if keep_freed_memory() else "no glibc")
def work():
    for _ in range(100):
        a = np.ones(1 << 17); b = a + 1; c = b * a; del a, b, c
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CHILD, word], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_a_temporary_of_a_megabyte_is_not_zeroed_by_the_kernel_each_time() -> None:
    kept, *count = faults("keep")
    if kept != "kept":
        pytest.skip("the C library has no mallopt")
    # 300 temporaries of 256 pages each: a few faults of the interpreter's own, not one per page.
    assert int(count[-1]) < 256


class Node:
    """Something that can refer to itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_left_out_of_collections_and_what_comes_is_not() -> None:
    before = Node()
    old = weakref.ref(before)
    with collector_spared():
        del before  # garbage now, in what is left out
        new = weakref.ref(Node())
        gc.collect()
        assert old() is not None and new() is None
    gc.collect()
    assert old() is None and gc.get_freeze_count() == 0


def test_a_caller_who_has_frozen_what_it_has_stays_so() -> None:
    gc.freeze()
    try:
        with collector_spared():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
