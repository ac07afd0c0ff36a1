"""The stage that reports: one derivation per analyzer, then the tree, its Zarr and its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import console
from flows.options import AnalyzeOptions
from flows.running import Failed, Runner
from pipeline.selection import parse_steps

if TYPE_CHECKING:
    from analyzers.contract import Analyzer, Derived
    from pipeline.archive.metrics import Log
    from pipeline.store import Store


@dataclass(frozen=True)
class Written:
    """Where the report is, and the analyzers that could not derive their part. `warnings` and `notes` are sentences on
    what the checkpoints hold (equal steps, parameters that never change): nothing is missing because of them."""

    zarr: Path
    html: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def report(
    store: Store,
    analyzers: Sequence[Analyzer],
    options: AnalyzeOptions,
    runs: Sequence[str] | None,
    runner: Runner,
    profile: Mapping[str, Any] | None = None,
    logs: Mapping[str, Log] | None = None,
) -> Written:
    """Writes OUT/report.zarr and OUT/report.html from what is stored. An analyzer that fails costs its own node.
    `profile` (where the computation's time went) stays in the report's attributes; `logs` are metrics that the store
    does not have."""
    from pipeline.compute.allocator import release_freed_memory
    from pipeline.report import assemble, derive, save, write_html
    from pipeline.report.contents import archive_rows
    from pipeline.report.spill import Spill
    from pipeline.store import cache, recent

    recent.forget()
    cache.forget()
    console.say("Writing the report.")
    selection: dict[str, Any] = {
        "include": options.include,
        "exclude": options.exclude,
        "steps": parse_steps(options.steps),
    }
    out = options.out_path
    out.mkdir(parents=True, exist_ok=True)
    with Spill(out / "report.zarr") as spill:

        def of(analyzer: Analyzer) -> tuple[Derived, ...]:
            release_freed_memory()
            return derive(store, analyzer, runs, **selection, spill=spill)

        derived, problems = _all_derived(analyzers, of, runner)
        problems += [str(damage) for damage in store.damage()]
        release_freed_memory()
        tree = assemble(
            store, [a for a in analyzers if a.name in derived], runs, **selection, derived=derived, problems=problems,
            logs=logs,
        )  # fmt: skip
        problems += [text for text in map(str, store.damage()) if text not in problems]  # assembling reads more
        if profile is not None:
            tree.attrs["profile"] = json.dumps(profile)
        tree.attrs["options"] = json.dumps(options.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        findings = archive_rows(tree, "contents")
        warnings, notes = (
            tuple(str(row["text"]) for row in findings if row["severity"] == severity)
            for severity in ("warning", "note")
        )
        release_freed_memory()
        zarr, html = save(tree, out / "report.zarr"), write_html(tree, out / "report.html")
    return Written(zarr, html, tuple(problems), warnings, notes)


def _all_derived(
    analyzers: Sequence[Analyzer], of: Callable[[Analyzer], tuple[Derived, ...]], runner: Runner
) -> tuple[dict[str, tuple[Derived, ...]], list[str]]:
    """What each analyzer derives, by its name, and a sentence on each that failed."""
    derived: dict[str, tuple[Derived, ...]] = {}
    problems: list[str] = []
    answers = runner.each("derive", of, analyzers, lambda a: a.name, here=True)
    for analyzer, answer in zip(analyzers, answers, strict=True):
        if isinstance(answer, Failed):
            problems.append(f"analyzer {analyzer.name}: {answer.reason}")
            console.complain(answer.trace.rstrip())
        else:
            derived[analyzer.name] = answer
    return derived, problems
