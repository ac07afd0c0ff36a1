"""Kills at every file event of saving a report: `python -m tests.faults.kills` prints a line per event and a tally.

A child process saves a second report in place of the first and dies just before its k-th change of the file system, for
every k until it survives: that is each of the file events of saving a report (folders made, files renamed or removed,
syncs, the exchange itself), in their order. After each death a reader must find the old or the new report whole, by our
code and by xarray alone; the next save must succeed and leave nothing behind. `--links` does the same where folders
cannot be exchanged, `--large` with the report of a whole analysis. `--first` and `--stride` choose the events.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pipeline.report import load, save, swap, verify_report
from tests.pipeline.report import synthetic

_EVENTS = ("rename", "replace", "mkdir", "rmdir", "unlink", "symlink", "fsync")
_DIED, _SAVED = 77, 0


def report(number: int, large: bool = False) -> xr.DataTree:
    """A report, told from the others by an attribute: of two nodes with an array each, or `large`."""
    if large:
        tree = synthetic.tree(matrices=2, steps=(0, 10), intruders=False)
    else:
        values = xr.DataArray(np.arange(3.0), dims="step")
        tree = xr.DataTree.from_dict({"/a": xr.Dataset({"x": values}), "/b": xr.Dataset({"y": 2 * values})})
    tree.attrs["number"] = number
    return tree


def save_and_die(target: Path, last: int, links: bool, large: bool) -> str:
    """Saves report 2 and dies before the event number `last` (0: never). `links`: as where nothing can be exchanged."""
    tree = report(2 if last else 1, large)
    count = 0

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count == last:
                os.write(_PIPE[1], name.encode())
                os._exit(_DIED)
            return function(*arguments, **more)

        return call

    if links:
        swap.exchange = lambda one, other: False
    for name in _EVENTS:
        setattr(os, name, counted(name, getattr(os, name)))
    swap.exchange = counted("exchange", swap.exchange)
    save(tree, target)
    return ""


def look(target: Path, links: bool, large: bool) -> str:
    """What stands at `target` after a death, and whether the next save makes it good."""
    if links:
        swap.exchange = lambda one, other: False
    try:
        whole, plain = load(target).load(), xr.open_datatree(target, engine="zarr").load()
    except Exception as error:  # whatever a reader meets is the outcome of this try
        return f"WRONG: {type(error).__name__}: {error}"
    if verify_report(target) or whole.attrs["number"] != plain.attrs["number"]:
        return "WRONG: damaged"
    save(report(3, large), target)
    left = [path.name for path in target.parent.iterdir() if path != target and path.resolve() != target.resolve()]
    left = [name for name in left if not re.fullmatch(r"\.report\.zarr\.[0-9a-f]{16}", name)]  # a version: goes in time
    if left or load(target).attrs["number"] != 3:
        return f"WRONG: left behind {left}"
    return f"report {whole.attrs['number']} whole"


_PIPE = [0, 0]


def in_child(work: Callable[[], str]) -> tuple[int, str]:
    """Runs `work` in a fork; its exit code and what it returned or wrote. This process itself must not use Zarr."""
    _PIPE[:] = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(_PIPE[1], work().encode())
        except BaseException as error:
            os.write(_PIPE[1], repr(error).encode())
            os._exit(1)
        os._exit(_SAVED)
    os.close(_PIPE[1])
    with os.fdopen(_PIPE[0], "rb") as said:
        text = said.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def kills(
    folder: Path, links: bool, large: bool = False, first: int = 1, stride: int = 1
) -> Iterator[tuple[int, str, str]]:
    """(k, the event before which the child died, what a reader then found), until the child survives."""
    at = first
    while True:
        target = folder / f"{at}" / "report.zarr"
        assert in_child(partial(save_and_die, target, 0, links, large))[0] == _SAVED
        code, event = in_child(partial(save_and_die, target, at, links, large))
        if code == _SAVED:
            return
        assert code == _DIED, event
        yield at, event, in_child(partial(look, target, links, large))[1]
        at += stride


def main() -> int:
    """Prints every death and the tally; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", action="store_true", help="as where folders cannot be exchanged")
    parser.add_argument("--large", action="store_true", help="the report of a whole analysis: some 900 events")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--stride", type=int, default=1, help="only every n-th event")
    given = parser.parse_args()
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        print("folders can be exchanged here:", swap.can_exchange(Path(folder)))
        for at, event, outcome in kills(Path(folder), given.links, given.large, given.first, given.stride):
            tally[outcome.split(":")[0]] += 1
            print(f"{at:4d} {event:10s} {outcome}", flush=True)
    print(dict(tally), sum(tally.values()), "deaths")
    return int("WRONG" in tally)


if __name__ == "__main__":
    raise SystemExit(main())
