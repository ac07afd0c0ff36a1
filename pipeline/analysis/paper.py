"""A store on paper: what an ingest would make of an archive, from headers alone, for a plan before anything is read.

    paper = PaperStore(archive, bases_of(archive), known=store)
    planned = plan(paper, analyzers, ...)

Contents cannot be known before they are read: either every tensor of every new checkpoint is another one (the upper
bound), or, with `frozen`, those of one name and shape are equal wherever they occur (the lower bound).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzers.errors import StoreError
from pipeline.analysis.intake import is_current, layout_of
from pipeline.archive.recipes import digest
from pipeline.archive.types import Archive, Checkpoint, Layout, TensorHeader
from pipeline.store.binding import Binding, bind, digest_map
from pipeline.store.records import BoundMatrix, CheckpointRecord, RunRecord
from pipeline.units.selection import StepSelection

if TYPE_CHECKING:
    from pipeline.archive.bases import ResolvedBase
    from pipeline.store import Store
    from pipeline.store.statistics import StatisticTable


class NoResults:
    """The table of a statistic that nobody has computed."""

    def extent(self, key: str) -> int | None:
        """None: nothing is stored."""
        return None

    def extents(self, keys: Sequence[str]) -> np.ndarray:
        """−1 for every key: nothing is stored."""
        return np.full(len(keys), -1)

    def read(self, keys: Iterable[str]) -> dict[str, Any]:
        """Nothing."""
        return {}


@dataclass
class PaperStore:
    """What `pipeline.compute.plan` asks a store for, answered from an archive's headers.

    `bases` are the runs' bases as intake resolves them. Checkpoints that `known` holds unchanged are taken from it,
    with their true digests and their statistics; of the others every step that `steps` selects is new.
    """

    archive: Archive
    bases: Mapping[str, ResolvedBase] = field(default_factory=dict)
    known: Store | None = None
    steps: StepSelection = field(default_factory=StepSelection)
    frozen: bool = False
    rehash: bool = False

    def __post_init__(self) -> None:
        self.path = self.known.path if self.known else Path(self.archive.root)
        self._layouts: dict[str, Layout] = {}
        self._bindings: dict[tuple[str, int], Binding] = {}
        self._known_runs = {run.id: run for run in self.known.runs()} if self.known else {}
        self._runs: dict[str, RunRecord] = {}
        self._records: dict[str, dict[int, CheckpointRecord]] = {}
        self.new: list[Checkpoint] = []
        self._new: set[tuple[str, int]] = set()
        for resolved in self.bases.values():
            self._add_run(resolved.run.id, adapter=False, role="base" if self._is_outside(resolved) else "run")
            self._add(resolved.checkpoint)
        for run in self.archive.runs:
            self._add_run(run.id, any(c.kind == "adapter" for c in run.checkpoints[-1:]), run.role)
            chosen = set(self.steps.of([c.step for c in run.checkpoints]))
            for checkpoint in run.checkpoints:
                if checkpoint.step in chosen:
                    self._add(checkpoint)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The archive's runs, and those of their bases."""
        return tuple(dict.fromkeys([*(r.id for r in self.archive.runs), *(b.run.id for b in self.bases.values())]))

    @property
    def unchanged(self) -> int:
        """Checkpoints that the known store holds already."""
        return sum(len(records) for records in self._records.values()) - len(self.new)

    def tensors(self) -> dict[str, TensorHeader]:
        """What the new checkpoints would bring: invented digest → header."""
        found: dict[str, TensorHeader] = {}
        for checkpoint in self.new:
            record = self._records[checkpoint.run][checkpoint.step]
            layout = self._layouts[record.layout]
            for tensor, its_digest in zip(layout.tensors, record.digests, strict=True):
                found.setdefault(str(its_digest), tensor)
        return found

    # What `Sources` and `plan` ask for

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs, sorted by id."""
        return tuple(sorted(self._runs.values(), key=lambda record: record.id))

    def run(self, run_id: str) -> RunRecord:
        """One run; StoreError when it is not there."""
        if run_id not in self._runs:
            raise StoreError(f"run {run_id!r} is not in {self.archive.root}; it has: {', '.join(self._runs) or 'none'}")
        return self._runs[run_id]

    def checkpoints(self, run_id: str) -> tuple[CheckpointRecord, ...]:
        """The run's checkpoints: those of the archive, and those that only the known store has left."""
        there = dict(self._records.get(run_id, {}))
        if self.known is not None and run_id in self._known_runs:
            for record in self.known.checkpoints(run_id):
                there.setdefault(record.step, record)
        return tuple(there[step] for step in sorted(there))

    def layout(self, layout_key: str) -> Layout:
        """A layout, of what is new or of what the known store holds."""
        return self._layouts[layout_key] if layout_key in self._layouts else self._store.layout(layout_key)

    def matrices(self, checkpoint: CheckpointRecord) -> tuple[BoundMatrix, ...]:
        """The matrices of a checkpoint. Ties among new tensors are not known before they are read."""
        binding = self._binding(checkpoint)
        return binding.matrices if binding is not None else self._store.matrices(checkpoint)

    def twins(self, checkpoint: CheckpointRecord) -> tuple[BoundMatrix, ...]:
        """Tied duplicates, of what the known store holds."""
        return () if self._binding(checkpoint) is not None else self._store.twins(checkpoint)

    def digests(self, checkpoint: CheckpointRecord) -> dict[str, str | None]:
        """Tensor name → digest, invented for what is new."""
        if self._binding(checkpoint) is None:
            return self._store.digests(checkpoint)
        return dict(digest_map(checkpoint, self._layouts[checkpoint.layout]))

    def statistic(self, name: str) -> StatisticTable | NoResults:
        """The stored results of a statistic."""
        return self.known.statistic(name) if self.known is not None else NoResults()

    @property
    def _store(self) -> Store:
        assert self.known is not None  # only its records have no binding of ours
        return self.known

    def _is_outside(self, resolved: ResolvedBase) -> bool:
        return resolved.run.id not in {run.id for run in self.archive.runs}

    def _add_run(self, run_id: str, adapter: bool, role: Any) -> None:
        known = self._known_runs.get(run_id)
        resolved = self.bases.get(run_id)
        base = resolved.reference if resolved else None
        kind = resolved.kind if resolved else None
        if known is not None and known.base and kind != "given":  # a recorded base never moves by itself
            base, kind = known.base, known.base_kind
        self._runs[run_id] = RunRecord(run_id, role, adapter, base, kind)

    def _add(self, checkpoint: Checkpoint) -> None:
        records = self._records.setdefault(checkpoint.run, {})
        if checkpoint.step in records:
            return
        known = self._recorded(checkpoint)
        if known is not None:
            records[checkpoint.step] = known
            return
        resolved = self.bases.get(checkpoint.run)
        layout = self._layout(checkpoint, resolved.checkpoint if resolved else None)
        where = "" if self.frozen else f"{checkpoint.run}@{checkpoint.step}"
        records[checkpoint.step] = CheckpointRecord(
            run=checkpoint.run,
            step=checkpoint.step,
            revision=0,
            layout=layout,
            digests=tuple(digest([where, t.name, t.shape]) for t in self._layouts[layout].tensors),
            places=(),
            files=checkpoint.files,
            source=str(checkpoint.path),
            format=checkpoint.format,
            kind=checkpoint.kind,
            config=checkpoint.config,
            adapter=checkpoint.adapter,
        )
        self.new.append(checkpoint)
        self._new.add((checkpoint.run, checkpoint.step))

    def _recorded(self, checkpoint: Checkpoint) -> CheckpointRecord | None:
        if self.known is None or checkpoint.run not in self._known_runs:
            return None
        there = {record.step: record for record in self.known.checkpoints(checkpoint.run)}.get(checkpoint.step)
        return there if there is not None and is_current(there, checkpoint) else None

    def _layout(self, checkpoint: Checkpoint, base: Checkpoint | None) -> str:
        """The key of its layout; checkpoints of a run share one where their headers agree."""
        headers = [[t.name, t.dtype, t.shape] for t in checkpoint.tensors]
        shapes = [[t.name, t.shape] for t in base.tensors] if base and base.config and not checkpoint.config else []
        config = dict(base.config) if base else {}
        key = digest([headers, checkpoint.kind, checkpoint.config, checkpoint.adapter, config, shapes])
        if key not in self._layouts:
            self._layouts[key] = layout_of(checkpoint, base)
        return key

    def _binding(self, checkpoint: CheckpointRecord) -> Binding | None:
        at = (checkpoint.run, checkpoint.step)
        if at not in self._new:
            return None
        if at not in self._bindings:
            self._bindings[at] = bind(checkpoint, self._layouts[checkpoint.layout])
        return self._bindings[at]
