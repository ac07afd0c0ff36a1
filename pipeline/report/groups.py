"""Which runs stand on joint axes in a report, and where to find those that do not.

Runs whose matrices share names share the axes (run, step, matrix). Runs that share none would only fill each other's
places with NaN: where that is more than a little, they stand in groups, and each group is a small report of its own at
``/groups/<number>``.

An analyzer without variables over matrices (`intrinsic_dimension`) is not split: paths of several runs may share a
joint basis, and its variables over runs, steps and groups of parameters are small: 0.9 MB for 16 nets that share no
name. They do grow with the third power of the number of such nets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import xarray as xr

NODE = "groups"
JOINT_ROWS = 50_000
"""Places (run, step, matrix), filled or not, that a report may always have: about 400 MB while it is made."""
SMALL_ROWS = JOINT_ROWS
"""A report of so many places is never split."""
PADDING = 2
"""Above that, places for each one that is filled; where there would be more, the groups are made narrower."""
FILLED = 0.75
"""Share of a narrower group's places that are filled at least."""

BASE_BYTES, ROW_BYTES, GROUP_BYTES = 470_000_000, 8_500, 5_000_000
"""Memory of a process that makes a report: its libraries, then for each place and for each group; measured."""


@dataclass(frozen=True)
class Extent:
    """What a run fills of the report: its steps and the names of its matrices."""

    run: str
    steps: frozenset[int]
    matrices: frozenset[str]

    @property
    def rows(self) -> int:
        """Its (step, matrix) places."""
        return len(self.steps) * len(self.matrices)


class _Group:
    """Runs on joint axes, with the union of their steps and matrices."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.extents = list(extents)
        self.steps = set[int]().union(*(extent.steps for extent in self.extents))
        self.matrices = set[str]().union(*(extent.matrices for extent in self.extents))
        self.filled = sum(extent.rows for extent in self.extents)

    @property
    def rows(self) -> int:
        return len(self.extents) * len(self.steps) * len(self.matrices)

    def takes(self, extent: Extent) -> bool:
        """Whether the run shares a matrix, and the places would still be filled well enough with it."""
        if self.matrices.isdisjoint(extent.matrices):
            return False
        matrices, steps = len(self.matrices | extent.matrices), len(self.steps | extent.steps)
        return self.filled + extent.rows >= FILLED * (len(self.extents) + 1) * steps * matrices

    def add(self, extent: Extent) -> None:
        self.extents.append(extent)
        self.steps |= extent.steps
        self.matrices |= extent.matrices
        self.filled += extent.rows


def group(extents: Sequence[Extent]) -> tuple[tuple[str, ...], ...]:
    """The runs of each group, in order. In a small report all runs stand together; in a larger one those that share a
    matrix's name, directly or through others.

    A report with more than `JOINT_ROWS` places, of which fewer than one in `PADDING` is filled, gets narrower groups.
    A run without any matrix stands in no group, or in the only one where there is room for it.
    """
    if _Group(extents).rows <= SMALL_ROWS:
        return (tuple(extent.run for extent in extents),)
    measured = [extent for extent in extents if extent.rows]
    connected = _connected(measured)
    allowed = max(JOINT_ROWS, PADDING * sum(one.filled for one in connected))
    if sum(one.rows for one in connected) > allowed:
        connected = [narrow for one in connected for narrow in _narrower(one)]
    if len(connected) < 2 and _Group(extents).rows <= allowed:
        return (tuple(extent.run for extent in extents),)
    place = {extent.run: index for index, extent in enumerate(extents)}
    members = (sorted((extent.run for extent in one.extents), key=place.__getitem__) for one in connected)
    return tuple(sorted(map(tuple, members), key=lambda runs: place[runs[0]]))


def joint_rows(extents: Sequence[Extent]) -> int:
    """Places (run, step, matrix) of all groups together, filled or not: the report's memory is proportional to them."""
    by_run = {extent.run: extent for extent in extents}
    return sum(_Group(by_run[run] for run in runs).rows for runs in group(extents))


def report_bytes(extents: Sequence[Extent]) -> int:
    """About the memory of the process that makes the report with the default analyzers."""
    return BASE_BYTES + ROW_BYTES * joint_rows(extents) + GROUP_BYTES * len(group(extents))


def _connected(extents: Sequence[Extent]) -> list[_Group]:
    """Connected by shared names of matrices: by union and find over the names."""
    parent = list(range(len(extents)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, extent in enumerate(extents):
        for matrix in extent.matrices:
            parent[root(index)] = root(first.setdefault(matrix, index))
    members: dict[int, list[Extent]] = {}
    for index, extent in enumerate(extents):
        members.setdefault(root(index), []).append(extent)
    return [_Group(listed) for listed in members.values()]


def _narrower(wide: _Group) -> list[_Group]:
    """The same runs in groups whose places are filled: each joins the first one that it fits in."""
    if wide.filled >= FILLED * wide.rows:
        return [wide]
    narrow: list[_Group] = []
    for extent in wide.extents:
        taking = next((one for one in narrow if one.takes(extent)), None)
        if taking is None:
            narrow.append(_Group([extent]))
        else:
            taking.add(extent)
    return narrow


def joined(datasets: Sequence[xr.Dataset], runs: Sequence[str]) -> xr.Dataset:
    """What the groups' datasets say over runs and steps, without matrices, on joint axes; runs in the order given.

    Where runs and all steps would have far more places than there are checkpoints, only what has no step is joined.
    """
    parts = [part for part in map(_without_matrices, datasets) if "run" in part.dims]
    if not parts:  # every variable is over matrices, or there is none
        return xr.Dataset()
    steps = {int(step) for part in parts if "step" in part.coords for step in part["step"].values}
    checkpoints = sum(int(part["measured"].sum()) for part in parts if "measured" in part)
    if len(runs) * len(steps) > max(JOINT_ROWS, PADDING * checkpoints):
        parts = [part.drop_dims("step", errors="ignore") for part in parts]
    masks = [part["measured"] for part in parts if "measured" in part]
    parts = [part.drop_vars("measured", errors="ignore") for part in parts]
    whole = xr.concat(parts, "run", data_vars="minimal", coords="minimal", compat="override", join="outer")
    if masks:
        whole["measured"] = xr.concat(masks, "run", join="outer", fill_value=False)
    present = set(whole["run"].values.tolist()) if "run" in whole.coords else set()
    return whole.sel(run=[run for run in runs if run in present]) if present else whole


def _without_matrices(dataset: xr.Dataset) -> xr.Dataset:
    kept = [name for name, array in dataset.data_vars.items() if "run" in array.dims and "matrix" not in array.dims]
    dims = {dim for name in kept for dim in dataset[name].dims}
    chosen = dataset[kept]
    return chosen.drop_vars([name for name, array in chosen.coords.items() if not set(array.dims) <= dims])


def parts(tree: xr.DataTree) -> list[xr.DataTree]:
    """The trees whose nodes stand on joint axes: the report itself, or its groups where runs share none."""
    return list(tree[NODE].children.values()) if NODE in tree.children else [tree]


def datasets(tree: xr.DataTree, node: str) -> list[xr.Dataset]:
    """An analyzer's datasets over (run, step, matrix): one, or one of each group that has the node."""
    return [part[node].to_dataset() for part in parts_with(tree, node)]


def parts_with(tree: xr.DataTree, node: str) -> list[xr.DataTree]:
    """The groups that have the node; the report itself where none has (the analyzer measures no matrices)."""
    having = [part for part in parts(tree) if node in part.children]
    return having or ([tree] if node in tree.children else [])


def of_run(arrays: Collection[xr.DataArray], run: str) -> xr.DataArray | None:
    """The array of the group that the run stands in."""
    return next((array for array in arrays if "run" in array.coords and run in array["run"].values), None)
