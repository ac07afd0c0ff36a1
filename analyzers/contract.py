"""The contract between varve and what it measures: the one page that a plugin author reads.

* A **statistic** is an expensive fact, computed once and kept in the store under a content key.
* An **analyzer** names the statistics that it needs and derives documented **variables** from them, cheaply.

A plugin is a package whose entry point in the group ``varve.analyzers`` is an `Analyzer` class:

    class MaxEntry(Statistic):                       # a frozen dataclass: its fields are its parameters
        name, version, scope = "max_entry", 1, "matrix"
        def compute(self, unit, context):
            return {"max": unit.only.matrix.dense().abs().max().double().cpu().numpy()}

    class Biggest(Analyzer):
        name, version = "biggest", 1
        variables = (Variable("max_entry", ("run", "step", "matrix"), "largest |entry|"),)
        def statistics(self):
            return (MaxEntry(),)
        def derive(self, view):
            return Derived(view.dataset({"max_entry": view.array(MaxEntry(), "max")}, self.variables))

Nothing here opens a file, knows Zarr, Dask or Prefect: tensors come in, small numpy arrays go out.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict

from analyzers import costs
from analyzers.costs import Work
from analyzers.errors import ContractError, Unmeasurable
from analyzers.models import Material, Models, NoModels, WholeCheckpoint

Scope = Literal["matrix", "pair", "checkpoint", "run", "runs"]
Result = Mapping[str, np.ndarray]
"""What a statistic returns: field name → small numpy array (float64, int64, bool, ...; any shape)."""
Trial = Mapping[str, Any]
"""One proposal of an iterative statistic: JSON-able, part of the unit's key."""


@dataclass(frozen=True)
class MatrixInfo:
    """What is known of a matrix without reading it.

    `name` is canonical (one name for the full, the adapter and the per-expert form). `shape` is (m, n) in the
    orientation (out, in); `orientation` says how the file holds it: "out_in", or "in_out" when it was transposed.
    `role` is "weight", "delta" (an adapter's Δ), "merged" (W0 + Δ), or "circuit_qk"/"circuit_ov". `dtype` is stored.
    `rank`: r of a product of factors (m, r) and (r, n), alone or on a base; None of any other matrix.
    """

    name: str
    shape: tuple[int, int]
    layer: int | None = None
    kind: str = "linear"
    role: str = "weight"
    dtype: str = "float32"
    orientation: str = "out_in"
    rank: int | None = None


@dataclass(frozen=True)
class LowRank:
    """scale · b @ a, never expanded where the factors suffice. b: (m, r), a: (r, n)."""

    b: torch.Tensor
    a: torch.Tensor
    scale: float = 1.0

    def dense(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """The product, (m, n)."""
        return self.scale * (self.b.to(dtype) @ self.a.to(dtype))


@dataclass(frozen=True)
class Sum:
    """base + delta, as an adapter on its base. base: (m, n)."""

    base: torch.Tensor
    delta: LowRank


Content = torch.Tensor | LowRank | Sum


@dataclass(frozen=True)
class Matrix:
    """A matrix that is read when it is asked for, on the unit's device, in its storage dtype.

    `key` identifies the content: equal keys mean bit-equal matrices. Each `content()` reads anew. Never write into it:
    an adapter's W and its W0 can share their base.
    """

    info: MatrixInfo
    key: str
    load: Callable[[], Content] = field(repr=False, compare=False)

    def content(self) -> Content:
        """Dense tensor (m, n) in storage dtype, or `LowRank`, or `Sum`."""
        return self.load()

    def dense(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(m, n). A plain tensor keeps its storage dtype unless `dtype` is given; factors expand in float64."""
        content = self.content()
        if isinstance(content, LowRank):
            content = content.dense(dtype or torch.float64)
        elif isinstance(content, Sum):
            wanted = dtype or torch.float64
            content = content.base.to(wanted) + content.delta.dense(wanted)
        return content if dtype is None else content.to(dtype)

    @staticmethod
    def of(tensor: Content, name: str = "W", **info: Any) -> Matrix:
        """A matrix of values in memory, for tests and notebooks."""
        if isinstance(tensor, LowRank):
            shape, dtype = (tensor.b.shape[0], tensor.a.shape[1]), tensor.b.dtype
        else:
            dense = tensor.base if isinstance(tensor, Sum) else tensor
            shape, dtype = (dense.shape[0], dense.shape[1]), dense.dtype
        described = MatrixInfo(name, shape, dtype=str(dtype).removeprefix("torch."), **info)
        return Matrix(described, f"memory:{id(tensor)}", lambda: tensor)


@dataclass(frozen=True)
class Observation:
    """One matrix at one step of one run, as a unit sees it.

    `reference` is W0 for scope "pair" and for units over pairs (see `Statistic.against`). `statistics` holds the
    declared inputs of scope matrix and pair by statistic name; `reference_statistics` those of the reference.
    `info`, `matrix` are None in the one observation per checkpoint that carries only checkpoint-scope inputs, or the
    whole `checkpoint` of a statistic that `reads_models`.
    """

    run: str
    step: int
    info: MatrixInfo | None
    matrix: Matrix | None
    reference: Matrix | None = None
    statistics: Mapping[str, Result] = field(default_factory=dict)
    reference_statistics: Mapping[str, Result] = field(default_factory=dict)
    checkpoint: WholeCheckpoint | None = None


@dataclass(frozen=True)
class Unit:
    """What one call of `Statistic.compute` gets.

    matrix, pair: one observation. checkpoint: all matrices of one checkpoint. run: the steps of one run in order
    (of one matrix, or of all: `Statistic.over`). runs: the same for every run compared, runs one after the other.
    `statistics` holds declared inputs whose scope is this unit's own (checkpoint, run, runs).
    A run's statistic that grows gets its result over the first `previous_count` steps in `previous`.
    """

    observations: tuple[Observation, ...]
    trial: Trial | None = None
    statistics: Mapping[str, Result] = field(default_factory=dict)
    previous: Result | None = None
    previous_count: int = 0

    @property
    def only(self) -> Observation:
        """The single observation of a matrix or pair unit."""
        if len(self.observations) != 1:
            raise ContractError(f"`only` wants one observation, the unit has {len(self.observations)}")
        return self.observations[0]


class Cache(Protocol):
    """Evictable storage of large intermediates (a base's singular vectors), shared by units and workers."""

    def __call__(
        self, name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]
    ) -> Mapping[str, torch.Tensor]:
        """The tensors under (name, key): read back, or made and kept. Names of one key never change meaning."""
        ...


def no_cache(name: str, key: str, make: Callable[[], Mapping[str, torch.Tensor]]) -> Mapping[str, torch.Tensor]:
    """The cache that keeps nothing: for tests and notebooks."""
    return make()


@dataclass(frozen=True)
class Context:
    """Where a unit runs. `seed` derives from the unit's key, so a unit draws the same numbers anywhere."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    cache: Cache = no_cache
    models: Models = field(default_factory=NoModels)

    def generator(self) -> torch.Generator:
        """A CPU generator seeded by the unit: draw on the CPU, then move, so that devices agree."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Cost:
    """What one unit takes: CPU seconds of one thread (an estimate to order and group by), peak bytes, and the
    device it can use ("any" runs on CUDA where there is one). `work` says which operations the seconds are made of, so
    that a plan can price them for another machine (`analyzers.costs`); empty where that is not known. `result_bytes` is
    the size of what is returned, 0 where nobody said. `once` is what the first unit of a shape makes for all others (a
    null kept in the cache); it is not among `seconds`."""

    seconds: float
    memory_bytes: int
    device: Literal["cpu", "any"] = "any"
    work: tuple[Work, ...] = ()
    result_bytes: int = 0
    once: tuple[Work, ...] = ()

    @staticmethod
    def of(
        work: Sequence[Work], memory_bytes: int, device: Literal["cpu", "any"] = "any", result_bytes: int = 0
    ) -> Cost:
        """The cost of this work, in seconds of the reference machine."""
        return Cost(costs.seconds(work), int(memory_bytes), device, tuple(work), int(result_bytes))


@dataclass(frozen=True)
class Statistic(ABC):
    """An expensive fact. Subclasses are frozen dataclasses: the fields are the parameters and enter the key.

    Raise `version` when the formula changes. `extent_field` names a parameter of which more contains less (a top-k):
    it stays out of the key, a stored result of larger extent serves, and a smaller one is computed anew.
    `against` (pair scope, or run/runs over pairs): "base", "previous" (step), "previous:2" (the step before that), or
    "run:<id>". Both of a pair are as the model had them, an adapter's Δ on its base; with `as_stored` it is Δ alone.
    `on_base` (scope matrix): measured is W0 + Δ of each of an adapter's matrices, and nothing else.
    `over`: a run or runs unit is made per "matrix" or once for the whole "checkpoint" series.
    `reads_matrices` False: only the input statistics are loaded (a statistic of a statistic).
    `reads_models` (scope checkpoint, or run and runs over "checkpoint"): one observation per checkpoint carries all of
    it; with `reads_matrices` False, that alone.
    `grows` (run, runs): `compute` extends `unit.previous`, of runs the result over any part of the checkpoints.
    `last_step_only` (run, runs): a unit sees each run's last step alone, and its key depends on nothing else.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    scope: ClassVar[Scope]
    against: ClassVar[str | None] = None
    as_stored: ClassVar[bool] = False
    on_base: ClassVar[bool] = False
    over: ClassVar[Literal["matrix", "checkpoint"]] = "matrix"
    reads_matrices: ClassVar[bool] = True
    reads_models: ClassVar[bool] = False
    extent_field: ClassVar[str | None] = None
    grows: ClassVar[bool] = False
    last_step_only: ClassVar[bool] = False

    def parameters(self) -> dict[str, Any]:
        """The JSON-able parameters that enter the key: all fields but the extent; of materials what identifies them."""
        every = {f.name: _identifying(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if name != self.extent_field}

    @property
    def extent(self) -> int:
        """How much of the extensible parameter is wanted; 0 where there is none."""
        return int(getattr(self, self.extent_field)) if self.extent_field else 0

    def inputs(self) -> tuple[Statistic, ...]:
        """The statistics this one is computed from."""
        return ()

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Why this matrix is not for this statistic (a sentence for the report), or None. Reads nothing."""
        return None

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Of a unit over these matrices (whole checkpoints: (parameters, 1)); the default is a float64 SVD of each."""
        work = [costs.svd(*info.shape) for info in infos]
        largest = max((i.shape[0] * i.shape[1] for i in infos), default=0)
        return Cost.of([*work, costs.python(2e-4 * len(infos))], memory_bytes=3 * 8 * largest)

    @abstractmethod
    def compute(self, unit: Unit, context: Context) -> Result:
        """The result of one unit. Raises `Unmeasurable` where the data have no answer."""

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """Several units at once; override where batching pays. One unit's failure is its own entry."""
        outcomes: list[Result | Exception] = []
        for unit, context in zip(units, contexts, strict=True):
            try:
                outcomes.append(self.compute(unit, context))
            except Exception as error:  # each unit answers for itself: the caller records it with its traceback
                outcomes.append(error)
        return outcomes


def _identifying(value: Any) -> Any:
    if isinstance(value, Material):
        return {"kind": value.kind, "digest": value.digest}
    return [_identifying(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class IterativeStatistic(Statistic):
    """A statistic measured by trials that depend on earlier trials (an adaptive search).

    The plan calls `propose` with the results so far and computes what comes back, in rounds, until it is empty.
    Every trial has its own key, so a killed search goes on with the trials already done.
    """

    @abstractmethod
    def propose(self, results: Sequence[tuple[Trial, Result | Unmeasurable]]) -> Sequence[Trial]:
        """The next trials for one unit given all finished ones; a pure function; empty when done."""

    def shared(self, trial: Trial) -> IterativeStatistic:
        """The statistic under whose key a trial is stored: itself, or one of its name with other parameters for which
        the trial is the same computation, so that it is done once for both (scopes matrix, pair and checkpoint)."""
        return self

    def further(self, results: Sequence[tuple[Trial, Result | Unmeasurable]], proposed: int) -> int:
        """About how many more trials one unit will ask for beyond those `proposed` now: for progress and plans."""
        return 0


@dataclass(frozen=True)
class Variable:
    """A named number of the report. `key` variables get curves and heatmaps; `log` asks for a logarithmic axis.
    `counted_by`: the variable with the number of matrices that this one is summed, or corrected, over."""

    name: str
    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    source: str = ""
    key: bool = False
    log: bool = False
    counted_by: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A run as an analyzer sees it. `role` "base" marks a run that was only ingested to be compared with.

    `base` is the checkpoint compared with, as "run@step"; `base_kind` says how it was chosen: "given", "catalog",
    "sibling", "adapter_config", "hf_cache", "first_step" (flagged: merely the run's own first save) or None.
    """

    id: str
    steps: tuple[int, ...]
    role: Literal["run", "base"] = "run"
    adapter: bool = False
    base: str | None = None
    base_kind: str | None = None


@dataclass(frozen=True)
class Stack:
    """Equal-shaped values of one field: values[i] belongs to (run_index[i], step_index[i], matrix_index[i])."""

    run_index: np.ndarray
    step_index: np.ndarray
    matrix_index: np.ndarray
    values: np.ndarray


class View(Protocol):
    """All stored results of the chosen runs, as an analyzer's `derive` sees them. Loading is lazy and batched.
    Where runs share no axes, an analyzer with variables over `matrix` gets a view of each group of runs that do."""

    runs: tuple[RunInfo, ...]
    steps: np.ndarray
    """Sorted union of the runs' steps, int64."""
    matrices: tuple[str, ...]
    """Canonical names, in order of first appearance."""

    def info(self, run: str, matrix: str) -> MatrixInfo | None:
        """Shape, layer, kind and role of a matrix in a run; None where the run has no such matrix."""
        ...

    def compared(self, matrix: str) -> tuple[RunInfo, ...]:
        """All runs of the report that have the matrix, in order: those of `runs`, and those of other groups."""
        ...

    def reference_info(self, run: str, matrix: str) -> MatrixInfo | None:
        """The same of its base's matrix."""
        ...

    def get(
        self, statistic: Statistic, run: str | None = None, step: int | None = None, matrix: str | None = None
    ) -> Result | None:
        """One result; which of run, step, matrix it needs follows from the scope. None where there is none."""
        ...

    def trials(
        self, statistic: IterativeStatistic, run: str | None = None, step: int | None = None, matrix: str | None = None
    ) -> Sequence[tuple[Trial, Result]]:
        """All finished trials of an iterative statistic's unit."""
        ...

    def reference(self, statistic: Statistic, run: str, matrix: str, step: int | None = None) -> Result | None:
        """A matrix statistic of the *base's* matrix that (run, matrix) is compared with."""
        ...

    def stacks(self, statistic: Statistic, field: str) -> Iterator[Stack]:
        """All values of a field of a matrix or pair statistic: a stack for each shape, or several where it is large."""
        ...

    def array(self, statistic: Statistic, field: str, fill: float = np.nan) -> np.ndarray:
        """(run, step, matrix, *value shape) of a matrix or pair statistic whose values share one shape."""
        ...

    def dataset(self, arrays: Mapping[str, np.ndarray], variables: Sequence[Variable]) -> xr.Dataset:
        """A Dataset with the variables' dims and attributes, and the coordinates run, step, matrix, layer, ..."""
        ...


@dataclass(frozen=True)
class Derived:
    """What `derive` returns: the joined dataset, datasets of single runs (full spectra), and notes for the reader."""

    dataset: xr.Dataset
    runs: Mapping[str, xr.Dataset] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class AnalyzerParameters(BaseModel):
    """Base of an analyzer's settings: an unknown key fails."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Analyzer(ABC):
    """Derives variables from statistics. `Parameters` is the schema of ``--set NAME.KEY=VALUE``."""

    name: ClassVar[str]
    version: ClassVar[int]
    variables: ClassVar[tuple[Variable, ...]] = ()
    Parameters: ClassVar[type[AnalyzerParameters]] = AnalyzerParameters

    def __init__(self, parameters: BaseModel | None = None) -> None:
        self.parameters: Any = parameters if parameters is not None else self.Parameters()

    @abstractmethod
    def statistics(self) -> Sequence[Statistic]:
        """What must be in the store before `derive`; their inputs are added by the plan."""

    @abstractmethod
    def derive(self, view: View) -> Derived:
        """The variables, from what is stored. Seconds, not minutes; missing results become NaN."""
