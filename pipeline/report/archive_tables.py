"""What the store holds, as tables of the report: runs, parameter map, what was left out, digests, metrics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import xarray as xr

from pipeline.archive.labels import labels
from pipeline.archive.metrics import Log
from pipeline.archive.recipes import digest, tensors_of
from pipeline.report.logged import metrics_dataset
from pipeline.report.tables import table
from pipeline.report.unmatched import unmatched_rows
from pipeline.store.content_findings import content_findings

if TYPE_CHECKING:
    from pipeline.archive.types import Problem
    from pipeline.store.failures import Failure
    from pipeline.store.held import ContentFinding
    from pipeline.store.records import CheckpointRecord, RunRecord
    from pipeline.store.store import Store
    from pipeline.units.addresses import Skip

Checkpoints = Mapping[str, Sequence["CheckpointRecord"]]


def archive_nodes(
    store: Store,
    runs: Sequence[RunRecord],
    steps: Mapping[str, Collection[int]],
    skips: Iterable[Skip] = (),
    failures: Iterable[Failure] = (),
    logs: Mapping[str, Log] = MappingProxyType({}),
) -> dict[str, xr.Dataset]:
    """Path → dataset: /archive/runs, contents, parameters, unmeasured, problems, notes, failures, skipped,
    /provenance, /metrics.

    `runs` are those of the report with their bases; of a run that `steps` names, only these steps are listed. `logs`
    are metrics in place of those that the store was given, by run id. Tables
    without a row are left out; /archive counts the rows of each in its attributes.
    """
    skips = tuple(skips)
    checkpoints = {
        run.id: [c for c in store.checkpoints(run.id) if run.id not in steps or c.step in steps[run.id]] for run in runs
    }
    tables = {
        "runs": _runs(runs, checkpoints),
        "contents": _contents(content_findings(store, runs, checkpoints)) + unmatched_rows(skips),
        "parameters": _parameters(store, checkpoints),
        "unmeasured": _unmeasured(store, checkpoints),
        "problems": _problems(runs, checkpoints),
        "notes": _notes(runs),
        "failures": _failures(failures),
        "skipped": _skipped(skips, Files(store, checkpoints)),
    }
    nodes = {"/archive": xr.Dataset(attrs={f"n_{name}": len(rows) for name, rows in tables.items()})}
    nodes |= {f"/archive/{name}": _table("entry", rows) for name, rows in tables.items() if rows}
    digests = _digests(store, checkpoints)
    nodes["/provenance"] = _table("checkpoint", digests) if digests else xr.Dataset()
    metrics = metrics_dataset({run.id: replace(run, given=logs.get(run.id, run.given)).log for run in runs})
    if metrics is not None:
        nodes["/metrics"] = metrics
    return nodes


Row = dict[str, Any]


def _table(dim: str, rows: Sequence[Row]) -> xr.Dataset:
    names = dict.fromkeys(name for row in rows for name in row)
    return table(dim, {name: [row.get(name) for row in rows] for name in names})


def _runs(runs: Sequence[RunRecord], checkpoints: Checkpoints) -> list[Row]:
    rows = []
    for run in runs:
        steps = [c.step for c in checkpoints[run.id]]
        rows.append(
            {
                "run": run.id,
                "role": run.role,
                "kind": "adapter" if run.adapter else "full",
                "checkpoints": len(steps),
                "first_step": min(steps, default=None),
                "last_step": max(steps, default=None),
                "formats": ", ".join(sorted({c.format for c in checkpoints[run.id]})),
                "step_source": ", ".join(sorted({c.step_source for c in checkpoints[run.id]})),
                "step_unit": ", ".join(sorted({c.step_unit for c in checkpoints[run.id] if c.step_source != "none"})),
                "base": run.base or "",
                "base_kind": run.base_kind or "",
                "source": run.source,
                "source_gone": sum(c.source_gone for c in checkpoints[run.id]),
            }
        )
    return rows


def _contents(findings: Iterable[ContentFinding]) -> list[Row]:
    """One row per finding, warnings first; lists are joined by commas."""
    return [
        {
            "code": one.code,
            "severity": one.severity,
            "runs": ", ".join(one.runs),
            "steps": ", ".join(map(str, one.steps)),
            "tensors": ", ".join(one.tensors),
            "text": one.text,
        }
        for one in findings
    ]


def _parameters(store: Store, checkpoints: Checkpoints) -> list[Row]:
    """One row per run and matrix: which tensors it was cut from, and how it is oriented."""
    rows: dict[tuple[Any, ...], Row] = {}
    for run, records in checkpoints.items():
        seen: set[str] = set()
        for record in records:
            if record.layout in seen:
                continue
            seen.add(record.layout)
            layout = store.layout(record.layout)
            names = labels(layout.matrices)
            for spec in layout.matrices:
                tensors = ", ".join(tensors_of(spec.recipe))
                row = {
                    "run": run,
                    "matrix": spec.name,
                    "label": names.get(spec.name, ""),
                    "tensors": tensors,
                    "orientation": spec.orientation,
                    "layer": spec.layer,
                    "kind": spec.kind,
                    "role": spec.role,
                    "rows": spec.shape[0],
                    "columns": spec.shape[1],
                    "dtype": spec.dtype,
                }
                rows.setdefault(tuple(row.values()), row)
    return list(rows.values())


def _unmeasured(store: Store, checkpoints: Checkpoints) -> list[Row]:
    """One row per run, tensor and reason, with how many checkpoints it concerns."""
    counts: dict[tuple[str, str, str], int] = {}
    for run, records in checkpoints.items():
        for record in records:
            for one in store.unmeasured(record):
                counts[run, one.tensor, one.reason] = counts.get((run, one.tensor, one.reason), 0) + 1
    return [
        {"run": run, "tensor": tensor, "reason": reason, "checkpoints": count}
        for (run, tensor, reason), count in counts.items()
    ]


def _problems(runs: Sequence[RunRecord], checkpoints: Checkpoints) -> list[Row]:
    found: list[tuple[str, int | None, Problem]] = [(run.id, None, p) for run in runs for p in run.problems]
    found += [(run, c.step, p) for run, records in checkpoints.items() for c in records for p in c.problems]
    rows: dict[tuple[Any, ...], Row] = {}
    for run, step, p in found:
        row = {"run": run, "step": step, "path": p.path, "tensor": p.tensor or "", "reason": p.reason, "hint": p.hint}
        rows.setdefault((p.path, p.tensor, p.reason), row)
    return list(rows.values())


def _notes(runs: Sequence[RunRecord]) -> list[Row]:
    """One row per run and note; the run is empty where a note is about the archive as a whole."""
    shared = dict.fromkeys(note for run in runs for note in run.archive_notes)
    return [{"run": run.id, "note": note} for run in runs for note in run.notes] + [
        {"run": "", "note": note} for note in shared
    ]


def _failures(failures: Iterable[Failure]) -> list[Row]:
    return [
        {
            "statistic": f.statistic,
            "run": f.run or "",
            "step": f.step,
            "matrix": f.matrix or "",
            "error": f.error or (f.traceback.strip().splitlines() or [""])[-1],
        }
        for f in failures
    ]


def _skipped(skips: Iterable[Skip], files: Files) -> list[Row]:
    """What has no value, by statistic and reason: how many, and the first one's place, tensors and file.

    `wrong` is 1 where something is amiss with the data, 0 where it is by design. `code` is "listed" where that is a
    row of the problems; `cause` is the reason that this one follows from, where it is another's.
    """
    groups: dict[tuple[str, str, bool, str], Row] = {}
    for skip in skips:
        statistic = skip.statistic or "all"
        key = (statistic, skip.reason, skip.wrong, skip.code)
        if key not in groups:
            place = [skip.run, "" if skip.step is None else f"step {skip.step}", skip.matrix or ""]
            file, tensors = files.of(skip)
            groups[key] = {
                "statistic": statistic,
                "reason": skip.reason,
                "wrong": int(skip.wrong),
                "code": skip.code,
                "cause": skip.cause,
                "count": 0,
                "example": ", ".join(filter(None, place)),
                "file": file,
                "tensors": tensors,
            }
        groups[key]["count"] += 1
    return sorted(groups.values(), key=lambda row: (-row["wrong"], row["statistic"], -row["count"]))


class Files:
    """Where a matrix came from: the checkpoint's path and the names of its tensors."""

    def __init__(self, store: Store, checkpoints: Checkpoints) -> None:
        self._store = store
        self._records = {(c.run, c.step): c for records in checkpoints.values() for c in records}
        self._tensors: dict[str, dict[str, str]] = {}

    def of(self, skip: Skip) -> tuple[str, str]:
        """(path of the checkpoint, tensors), empty where the skip names no step or no matrix."""
        record = None if skip.step is None else self._records.get((skip.run, skip.step))
        if record is None:
            return "", ""
        if record.layout not in self._tensors:
            specs = self._store.layout(record.layout).matrices
            self._tensors[record.layout] = {spec.name: ", ".join(tensors_of(spec.recipe)) for spec in specs}
        return record.source, self._tensors[record.layout].get(skip.matrix or "", "")


def _digests(store: Store, checkpoints: Checkpoints) -> list[Row]:
    """One row per checkpoint: a digest over the names and digests of its tensors."""
    return [
        {
            "run": run,
            "step": record.step,
            "revision": record.revision,
            "digest": digest([[name, value] for name, value in sorted(store.digests(record).items())]),
            "format": record.format,
            "source": record.source,
            "source_gone": int(record.source_gone),
            "ingested": record.ingested,
        }
        for run, records in checkpoints.items()
        for record in records
    ]
