"""Derived arrays on disk until the report is written, so that memory holds what one analyzer derives and not their sum.

with Spill(beside=report) as spill:
    derived = derive(store, analyzer, spill=spill)  # datasets whose large arrays are read when they are used
    save(assemble(store, [analyzer], derived={analyzer.name: derived}), report)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from analyzers.errors import ReportError
from pipeline.report.swap import fresh_path, remove, sweep

if TYPE_CHECKING:
    from analyzers.contract import Derived

SMALLEST_BYTES = 1 << 20
"""Arrays below this size stay in memory."""


class Spill:
    """A folder beside a report that is removed at the end. A later writer of the report removes what a kill leaves."""

    def __init__(self, beside: Path) -> None:
        self._target = beside
        self._folder = fresh_path(beside)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder.exists():
            remove(self._folder)

    def keep(self, derived: Derived) -> Derived:
        """The same, with its large arrays of numbers in the folder. Raises `ReportError` where it cannot be written."""
        try:
            runs = {run: self._dataset(dataset) for run, dataset in derived.runs.items()}
            return replace(derived, dataset=self._dataset(derived.dataset), runs=runs)
        except OSError as error:
            raise ReportError(f"cannot write {self._folder}, which the report is made from: {error}") from error

    def _dataset(self, dataset: xr.Dataset) -> xr.Dataset:
        on_disk: Mapping[Hashable, Any] = {
            name: (variable.dims, self._written(variable.values), variable.attrs)
            for name, variable in dataset.variables.items()
            if name in dataset.data_vars and variable.nbytes >= SMALLEST_BYTES and not variable.dtype.hasobject
        }
        return dataset.assign(on_disk) if on_disk else dataset

    def _written(self, values: np.ndarray) -> indexing.LazilyIndexedArray:
        if not self._count:
            sweep(self._target)
            self._folder.mkdir(parents=True)
        self._count += 1
        path = self._folder / f"{self._count}.npy"
        np.save(path, values, allow_pickle=False)
        return indexing.LazilyIndexedArray(_FileArray(path, values.shape, values.dtype))


class _FileArray(BackendArray):
    """A .npy file as xarray wants it: read when it is indexed, and not kept."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._path = path
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        chosen: np.ndarray = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )
        return chosen

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        if all(part == slice(None) for part in key):
            return np.asarray(np.load(self._path))
        return np.array(np.load(self._path, mmap_mode="r")[key])
