"""`varve inspect`: what an archive holds, from headers alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import AsJson, Words, request_of, with_options
from flows.cli.words.console import json_text, number, plural, say, size, table
from pipeline.archive.notes import WHOLE_ARCHIVE, notes_by_run, within

if TYPE_CHECKING:
    from pipeline.archive.types import Archive, Checkpoint, Layout, Run

_STEPS_SHOWN = 6


@with_options("runs", "name", "step_pattern", "step_scale")
def inspect(
    words: Words,
    parameters: Annotated[
        str | None,
        typer.Option(
            "--parameters",
            metavar="RUN|all",
            help="Show which matrices the parameters of this run become, and what is not measured and why.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show the runs, checkpoints, steps, formats, parameters and bytes of an archive; reads headers only.

    \b
      varve inspect RUNS/
      varve inspect RUNS/ --parameters all
      varve inspect RUNS/ --json | jq '.runs[].steps'

    Exit code 3 when something in the archive cannot be read (it is listed), 2 when there is nothing to read.
    """
    from pipeline.analysis.intake import layout_of
    from pipeline.analysis.resolve import find_archive

    archive = find_archive(request_of(words)).archive
    chosen = _chosen(archive, parameters)
    layouts = {run.id: layout_of(run.checkpoints[-1]) for run in chosen if run.checkpoints}
    if as_json:
        say(json_text(_as_data(archive, layouts)))
    else:
        _show(archive)
        for run_id, layout in layouts.items():
            _show_layout(run_id, layout)
    return 3 if problems_of(archive) else 0


def problems_of(archive: Archive) -> list[str]:
    """All problems of the archive and of its checkpoints, as lines."""
    of_checkpoints = [p for run in archive.runs for c in run.checkpoints for p in c.problems]
    return list(dict.fromkeys(str(p) for p in (*archive.problems, *of_checkpoints)))


def notes_of(archive: Archive) -> list[str]:
    """What was ignored by design, as lines: notes on each run with its id first, then those on the whole archive."""
    notes = notes_by_run(archive)
    of_runs = [f"{run}: {note}" for run, lines in notes.items() if run != WHOLE_ARCHIVE for note in lines]
    return [*of_runs, *notes.get(WHOLE_ARCHIVE, ())]


def steps_text(steps: list[int]) -> str:
    """All of a few steps, or the first ones and the last."""
    if len(steps) <= _STEPS_SHOWN:
        return ", ".join(map(str, steps))
    return ", ".join(map(str, steps[: _STEPS_SHOWN - 2])) + f", … {steps[-1]}"


def _chosen(archive: Archive, wanted: str | None) -> list[Run]:
    if wanted is None:
        return []
    from pipeline.archive.text import visible

    wanted = visible(wanted)
    runs = [r for r in archive.runs if wanted == "all" or wanted in (r.id, r.id.removeprefix(f"{archive.name}/"))]
    if not runs:
        listed = ", ".join(r.id for r in archive.runs)
        raise typer.BadParameter(f"no run is called {wanted!r}; the archive has: {listed}", param_hint="--parameters")
    return runs


def _weights(checkpoint: Checkpoint) -> int:
    total = 0
    for tensor in checkpoint.tensors:
        count = 1
        for length in tensor.shape:
            count *= length
        total += count
    return total


def _show(archive: Archive) -> None:
    rows = []
    for run in archive.runs:
        last = run.checkpoints[-1] if run.checkpoints else None
        formats = ", ".join(sorted({c.format for c in run.checkpoints}))
        kinds = ", ".join(sorted({c.kind for c in run.checkpoints}))
        steps = steps_text([c.step for c in run.checkpoints])
        units = {c.step_unit for c in run.checkpoints} - {"step"}
        steps += f" ({', '.join(f'{unit}s' for unit in sorted(units))})" if units else ""
        sources = ", ".join(sorted({c.step_source for c in run.checkpoints}))
        nbytes = size(sum(c.nbytes for c in run.checkpoints))
        parameters = number(_weights(last)) if last else "0"
        tensors = len(last.tensors) if last else 0
        rows.append(
            (
                run.id,
                run.role,
                kinds,
                number(len(run.checkpoints)),
                steps,
                sources,
                formats,
                number(tensors),
                parameters,
                nbytes,
            )
        )
    headers = ("run", "role", "kind", "checkpoints", "steps", "from", "format", "tensors", "parameters", "bytes")
    if rows:
        say(table(headers, rows, right=(3, 7, 8, 9)))
    checkpoints = [c for run in archive.runs for c in run.checkpoints]
    total = size(sum(c.nbytes for c in checkpoints))
    say(f"\n{plural(len(archive.runs), 'run')}, {plural(len(checkpoints), 'checkpoint')}, {total} of tensors")
    _show_notes(archive)
    problems = problems_of(archive)
    if problems:
        say(f"\n{plural(len(problems), 'problem')}:")
        for line in problems:
            say(f"  {line}")


def _show_notes(archive: Archive) -> None:
    """What was ignored by design or is worth knowing, under the run that it is about."""
    notes = notes_by_run(archive)
    if any(notes.values()):
        say("\nNotes:")
    for run in archive.runs:
        if notes.get(run.id):
            say(f"  {run.id}")
        for note in notes.get(run.id, ()):
            say(f"    {within(note, run, archive.root)}")
    for note in notes.get(WHOLE_ARCHIVE, ()):
        say(f"  {note}")


def _show_layout(run: str, layout: Layout) -> None:
    from pipeline.archive.labels import labelled, labels
    from pipeline.archive.recipes import tensors_of

    say(f"\n{run}: {plural(len(layout.matrices), 'matrix', 'matrices')} from {plural(len(layout.tensors), 'tensor')}")
    short = labels(layout.matrices)
    rows = [
        (
            labelled(m.name, short.get(m.name)),
            f"{m.shape[0]} × {m.shape[1]}",
            m.layer,
            m.kind,
            m.role,
            m.dtype,
            " · ".join(tensors_of(m.recipe)),
        )
        for m in layout.matrices
    ]
    if rows:
        say(table(("matrix", "out × in", "layer", "kind", "role", "dtype", "tensors"), rows))
    if layout.unmeasured:
        say(f"\nNot measured: {plural(len(layout.unmeasured), 'tensor')}")
        for reason, count in Counter(u.reason for u in layout.unmeasured).most_common():
            names = [u.tensor for u in layout.unmeasured if u.reason == reason]
            say(f"  {reason} ({number(count)}): {', '.join(names[:8])}{', …' if count > 8 else ''}")


def _as_data(archive: Archive, layouts: dict[str, Layout]) -> dict[str, Any]:
    from pipeline.archive.labels import labels
    from pipeline.archive.recipes import tensors_of

    names = {run: labels(layout.matrices) for run, layout in layouts.items()}
    return {
        "archive": archive.name,
        "root": str(archive.root),
        "runs": [
            {
                "id": run.id,
                "role": run.role,
                "steps": [c.step for c in run.checkpoints],
                "bytes": sum(c.nbytes for c in run.checkpoints),
                "checkpoints": [
                    {
                        "step": c.step,
                        "step_source": c.step_source,
                        "step_unit": c.step_unit,
                        "path": str(c.path),
                        "format": c.format,
                        "kind": c.kind,
                        "tensors": len(c.tensors),
                        "parameters": _weights(c),
                        "bytes": c.nbytes,
                    }
                    for c in run.checkpoints
                ],
            }
            for run in archive.runs
        ],
        "notes": notes_of(archive),
        "problems": problems_of(archive),
        "parameters": {
            run: {
                "matrices": [
                    {
                        "name": m.name,
                        "label": names[run].get(m.name, ""),
                        "shape": list(m.shape),
                        "layer": m.layer,
                        "kind": m.kind,
                        "role": m.role,
                        "dtype": m.dtype,
                        "orientation": m.orientation,
                        "tensors": list(tensors_of(m.recipe)),
                    }
                    for m in layout.matrices
                ],
                "unmeasured": [{"tensor": u.tensor, "reason": u.reason} for u in layout.unmeasured],
            }
            for run, layout in layouts.items()
        },
    }
