"""What one damaged file does: `python -m tests.faults.flips [--tries N] [--seed N]` prints a line per try and a tally.

A byte or a digit is changed in, or a file deleted from, every kind of file of a store, its cache and a report. Then the
analysis runs again, once with its results there and once without (so that all is computed from what is damaged), and
its numbers are compared with those of an undamaged store. Outcomes of a try:

noticed    the analysis, `verify` or the reader of a report named the damage, and no number was wrong. A number that is
           summed or corrected over matrices may differ where the variable that its attribute `counted_by` names tells
           that fewer matrices are behind it
harmless   nothing was said, and every number is there and right
WRONG      a number is wrong, or missing without a word, or still wrong or missing after `verify --repair`; or an
           error escaped that is not one of ours, or that names no way out
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from analyzers.errors import VarveError
from pipeline.analysis import driver
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.resolve import resolve
from pipeline.report import load, swap, verify_report
from pipeline.store import Store, repair, verify
from pipeline.store.packs import pack_index
from tests.end_to_end.archives import SHAPES, write_run


@dataclass(frozen=True)
class Values:
    """Every number of the analyzers' nodes by its coordinates, without those that are missing; and for the variables
    that are summed or corrected over matrices, the variable that counts these."""

    numbers: dict[str, pd.Series]
    counted_by: dict[str, str]


_LARGE = {**SHAPES, "layers.1.mlp.up_proj.weight": (640, 512)}  # one tensor that gets an array of its own


def options(root: Path) -> AnalysisRequest:
    """An analysis of the archive beside `root`'s folder, into `root`."""
    analyzers = ("weight_spectra", "intruder_dimensions")
    return AnalysisRequest(runs=str(root.parent / "runs"), out=str(root), analyzers=analyzers, workers=1)


def analyze(root: Path) -> tuple[Values, tuple[str, ...]]:
    """The numbers of the report, and the problems that the analysis names."""
    pack_index.cache_clear()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        outcome = driver.analyze(resolve(options(root)))
    return values_of(load(outcome.written.zarr)), outcome.problems


def values_of(tree: xr.DataTree) -> Values:
    """The numbers of a report."""
    values, counted_by = {}, {}
    for node in tree.subtree:
        if "analyzer" not in node.attrs:
            continue
        for name, array in node.to_dataset().data_vars.items():
            if array.dtype.kind in "fiu" and array.ndim:
                values[f"{node.path}/{name}"] = array.to_series().dropna()
                if counter := array.attrs.get("counted_by"):
                    counted_by[f"{node.path}/{name}"] = f"{node.path}/{counter}"
    return Values(values, counted_by)


def wrong_and_missing(values: Values, right: Values) -> tuple[int, int]:
    """How many numbers differ from the right ones, and how many of those are not there."""
    wrong = missing = 0
    counters = set(right.counted_by.values())
    for name, expected in right.numbers.items():
        if name in counters:
            continue  # a count that is smaller is how the lost matrix shows
        got = values.numbers.get(name, expected.iloc[:0])
        common = expected.index.intersection(got.index)
        a, b = expected.loc[common].astype(float), got.loc[common].astype(float)
        differ = (a - b).abs() > 1e-9 * (1e-30 + a.abs())
        if name in right.counted_by:
            differ &= ~fewer_matrices(differ.index, right.counted_by[name], values, right)
        wrong += int(differ.sum())
        missing += len(expected) - len(common)
    return wrong, missing


def fewer_matrices(places: pd.Index, counter: str, values: Values, right: Values) -> np.ndarray:
    """At which places the count of matrices is smaller than it should be, or missing."""
    expected, got = right.numbers[counter], values.numbers.get(counter, right.numbers[counter].iloc[:0])
    names = list(expected.index.names)
    at = pd.MultiIndex.from_arrays([places.get_level_values(name) for name in names], names=names)
    whole, there = (
        np.nan_to_num(series.reindex(at if len(names) > 1 else at.get_level_values(0)).to_numpy(float))
        for series in (expected, got)
    )
    return there < whole


def kind_of(file: Path, root: Path) -> str:
    """The kind of a file: its path without names, digests and numbers."""
    name = file.relative_to(root).as_posix()
    name = re.sub(r"(runs|statistics|failures)/[^/]+/", r"\1/*/", name)
    name = re.sub(r"^\.report\.zarr\.[0-9a-f]{16}/", "report.zarr (a link)/", name)
    name = re.sub(r"report\.zarr( \(a link\))?/.*?(zarr\.json|c(/\d+)*)$", r"report.zarr\1/*/\2", name)
    name = re.sub(r"(\d+\.\d+|[0-9a-f]{32}|[0-9a-f]{16}-[0-9a-f]{6})(?=/)", "*", name)
    return re.sub(r"c(/\d+)+$", "c/*", re.sub(r"[^/]+\.safetensors$", "*.safetensors", name))


def change(file: Path, how: str, draw: random.Random) -> bool:
    """Damages a file; False where it has nothing of that sort."""
    if how == "deleted":
        file.unlink()
        return True
    data = bytearray(file.read_bytes())
    digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()] if file.name == "zarr.json" else []
    if not data or (how == "digit" and not digits):
        return False
    at = draw.choice(digits) if how == "digit" else draw.randrange(len(data))
    data[at] = ord(str((data[at] - 47) % 10)) if how == "digit" else data[at] ^ (1 << draw.randrange(8))
    file.write_bytes(data)
    return True


def strike_store(root: Path, right: Values) -> str:
    """The outcome for a damaged store."""
    told: list[str] = []
    store = root / "store.zarr"
    try:
        pack_index.cache_clear()
        told = [str(problem) for problem in verify(Store.open(store))]
        values, problems = analyze(root)
    except VarveError as error:  # refused: no number came of it
        if "repair" not in str(error):
            return f"WRONG (no way out in: {error!s:.200})"
        values, problems = right, (str(error),)
    except Exception as error:  # nothing else may come out: it is the outcome of this try
        return f"WRONG (escaped: {type(error).__name__}: {error!s:.200})"
    wrong, missing = wrong_and_missing(values, right)
    if wrong or (missing and not (told or problems)):
        return f"WRONG ({wrong} wrong, {missing} missing, {len(told)} told)"
    if not (told or problems):
        return "harmless"
    if not any("repair" in line for line in (*told, *problems)):
        return f"WRONG (no way out in: {(*told, *problems)[0]:.200})"
    pack_index.cache_clear()
    try:
        repair(store)
        again, left = analyze(root)
    except Exception as error:  # as above
        return f"WRONG after the repair ({type(error).__name__}: {error!s:.200})"
    if any(wrong_and_missing(again, right)):
        return f"WRONG after the repair ({wrong_and_missing(again, right)}; {left[:2]})"
    return "noticed"


def strike_report(path: Path, right: Values) -> str:
    """The outcome for a damaged report, read through our code and by xarray alone."""
    try:
        told = verify_report(path)
        values = values_of(load(path))
    except VarveError:
        return "noticed"
    wrong, missing = wrong_and_missing(values, right)
    if wrong or missing:
        return "WRONG"
    return "noticed" if told else "harmless"


def files_by_kind(root: Path) -> dict[str, list[Path]]:
    """Every file below `root` by its kind."""
    kinds: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*")):
        if file.is_file() and not file.is_symlink() and file.suffix not in (".lock", ".html"):
            kinds.setdefault(kind_of(file, root), []).append(file)
    return kinds


def tries(
    root: Path, seed: int, count: int, only: str = "", links: bool = False
) -> Iterator[tuple[str, str, str, str]]:
    """(kind, how, whether results were there, outcome) of `count` tries for each kind of file and way to damage it.
    `links`: the report is written as where folders cannot be exchanged."""
    if links:
        swap.exchange = lambda one, other: False
    draw = random.Random(seed)
    write_run(root / "runs" / "a", 2, shapes=_LARGE)
    whole = root / "whole"
    right, problems = analyze(whole)
    assert not problems and right, problems
    for kind, files in files_by_kind(whole).items():
        if only not in kind:
            continue
        for how in ("byte", "digit", "deleted"):
            for number in range(1 if how == "deleted" else count):
                results = "statistics" in kind or bool((number + len(kind)) % 2)
                trial = root / f"try{draw.getrandbits(40):x}"
                shutil.copytree(whole, trial, symlinks=True)
                if not results:
                    _forget_results(trial / "store.zarr")
                file = trial / draw.choice(files).relative_to(whole)
                if file.exists() and change(file, how, draw):
                    report = "report.zarr" in kind
                    outcome = strike_report(trial / "report.zarr", right) if report else strike_store(trial, right)
                    yield kind, how, "kept" if results else "cleared", outcome
                shutil.rmtree(trial)


def _forget_results(store: Path) -> None:
    """Removes all results as `varve` would."""
    for table in (store / "statistics").iterdir():
        if table.is_dir():
            shutil.rmtree(table)
    shutil.rmtree(store / "journal")


def main() -> int:
    """Prints every try and the tally; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=3, help="changed bytes, and digits, for each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only kinds of files that contain this")
    parser.add_argument("--links", action="store_true", help="as where folders cannot be exchanged")
    given = parser.parse_args()
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind, how, results, outcome in tries(Path(folder), given.seed, given.tries, given.only, given.links):
            tally[f"{how}: {outcome.split(' ')[0]}"] += 1
            print(f"{outcome:10s}  {how:8s} results {results:8s} {kind}", flush=True)
    print(dict(sorted(tally.items())), sum(tally.values()), "tries")
    return int(any("WRONG" in outcome for outcome in tally))


if __name__ == "__main__":
    raise SystemExit(main())
