"""Which variables of a report an export holds: those that globs name, or all but the vectors in formats of text.

A vector has many values at each run, step and matrix: every singular value, its change, 64 quantiles of a spectrum.
They take most of the room, and text takes about twenty bytes for a number that needs eight.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import xarray as xr

from analyzers.errors import ReportError
from pipeline.report.groups import NODE as GROUPS
from pipeline.report.logged import NODE as LOGGED
from pipeline.report.tables import RESERVED, datasets_of
from pipeline.report.tidy import LEADING

VECTOR_LENGTH = 32
"""A variable with a longer numeric dimension beside run, step and matrix is a vector."""
_LISTED = 12
"""Names that an error lists where none is near."""


@dataclass(frozen=True)
class ChosenPlace:
    """A variable, or a metric that the training logged: the path of its node in the tree, and the node's name as it is
    written in a glob, without groups."""

    path: str
    node: str
    name: str
    is_vector: bool

    @property
    def is_measured(self) -> bool:
        """Whether an analyzer's, not one of the tables about the archive or the training log."""
        return self.node.partition("/")[0] not in RESERVED

    def matches(self, glob: str) -> bool:
        """Whether a glob on names, or on node/name, means this variable."""
        if fnmatchcase(self.name, glob):
            return True
        return any(fnmatchcase(f"{n}/{self.name}", glob) for n in (self.node, self.node.partition("/")[0]))


def chosen(tree: xr.DataTree, globs: Sequence[str]) -> xr.DataTree:
    """The report with the variables that the globs mean; a node without one is left out. A glob without a node means
    variables of analyzers, and others only where no analyzer has one. ReportError for a glob that matches nothing."""
    places = places_of(tree)
    return _only(tree, [place for glob in globs for place in _meant(places, glob)])


def without_vectors(tree: xr.DataTree) -> tuple[xr.DataTree, tuple[str, ...]]:
    """The report without its vectors, and their names as globs that bring them back."""
    places = places_of(tree)
    names = dict.fromkeys(f"{p.node.partition('/')[0]}/{p.name}" for p in places if p.is_vector)
    return _only(tree, [place for place in places if not place.is_vector]), tuple(names)


def places_of(tree: xr.DataTree) -> list[ChosenPlace]:
    """Every variable of the report."""
    places = []
    for path, dataset in datasets_of(tree).items():
        parts = path.strip("/").split("/")
        node = "/".join(parts[2:] if parts[0] == GROUPS else parts)
        is_table = node.partition("/")[0] in RESERVED
        per_run = "runs" in node.split("/")[1:-1]
        if node == LOGGED and "metric" in dataset.coords:  # earlier reports have a variable for each metric
            places += [ChosenPlace(path, node, str(name), False) for name in dataset["metric"].values]
        for name, variable in dataset.data_vars.items():
            is_long = per_run or any(_is_long(dataset, str(dim)) for dim in variable.dims)
            places.append(ChosenPlace(path, node, str(name), is_long and not is_table))
    return places


def _is_long(dataset: xr.Dataset, dim: str) -> bool:
    """Whether a dimension numbers the values of a vector: text labels (runs, sides) name places instead."""
    is_text = dim in dataset.coords and dataset[dim].dtype.kind not in "iuf"
    return dim not in LEADING and not is_text and dataset.sizes[dim] > VECTOR_LENGTH


def _meant(places: Sequence[ChosenPlace], glob: str) -> list[ChosenPlace]:
    hits = [place for place in places if place.matches(glob)]
    if not hits:
        raise ReportError(f"no variable of the report matches {glob!r}: {_hint(places, glob)}")
    measured = [place for place in hits if place.is_measured]
    return hits if glob == "*" or "/" in glob or not measured else measured


def _hint(places: Iterable[ChosenPlace], glob: str) -> str:
    measured = sorted({place.name for place in places if place.is_measured})
    known = dict.fromkeys(measured) | {p.name: None for p in places}
    if "/" in glob:
        known = {f"{p.node.partition('/')[0]}/{p.name}": None for p in places}
    near = difflib.get_close_matches(glob.replace("*", ""), known, n=3)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    listed = ", ".join(measured[:_LISTED]) or "none"
    more = f", and {len(measured) - _LISTED} more" if len(measured) > _LISTED else ""
    return f"there are {listed}{more}; `columns.csv` of a CSV export describes each"


def _of(dataset: xr.Dataset, names: set[str]) -> xr.Dataset:
    """The variables of these names; of what the training logged, which is one variable, the metrics of these names."""
    variables = [name for name in dataset.data_vars if name in names]
    if not variables and "metric" in dataset.dims:
        return dataset.sel(metric=[name for name in dataset["metric"].values if str(name) in names])
    return dataset[variables]


def _only(tree: xr.DataTree, places: Iterable[ChosenPlace]) -> xr.DataTree:
    names: dict[str, set[str]] = {}
    for place in places:
        names.setdefault(place.path, set()).add(place.name)
    datasets = {path: _of(dataset, names[path]) for path, dataset in datasets_of(tree).items() if path in names}
    made = xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **datasets})
    made.attrs = dict(tree.attrs)
    return made
