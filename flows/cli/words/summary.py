"""An outcome in words: lines for the terminal, markdown for Prefect."""

from __future__ import annotations

from flows.cli.words import console, profile_text
from pipeline.analysis.outcome import Outcome, Written

_LISTED = 50


def lines(outcome: Outcome) -> list[str]:
    """The closing lines of `varve analyze`: counts, problems, paths."""
    said = ["", console.table(("", "done", "already stored", "failed"), _rows(outcome), right=(1, 2, 3))]
    said += profile_text.lines(outcome.computed.profile)
    said += content_lines(outcome.written)
    said += console.problem_lines(outcome.problems)
    return [*said, "", console.report_lines(outcome.written.html, outcome.written.zarr)]


def content_lines(written: Written) -> list[str]:
    """What the checkpoints' contents show: warnings, then notes; nothing when there is nothing."""
    return console.content_lines(written.warnings, written.notes)


def markdown(outcome: Outcome) -> str:
    """The artifact of a flow run."""
    rows = "\n".join(f"| {what} | {done} | {before} | {failed} |" for what, done, before, failed in _rows(outcome))
    text = f"| | done | already stored | failed |\n|---|---:|---:|---:|\n{rows}\n\n"
    if outcome.written.warnings:
        text += "**Warnings**\n\n" + "\n".join(f"- {line}" for line in outcome.written.warnings[:_LISTED]) + "\n\n"
    if outcome.problems:
        listed = "\n".join(f"- {line}" for line in outcome.problems[:_LISTED])
        more = len(outcome.problems) - _LISTED
        text += f"**Problems**\n\n{listed}\n" + (f"- and {more} more\n" if more > 0 else "") + "\n"
    return text + f"Report: `{outcome.written.html}`, `{outcome.written.zarr}`\n"


def _rows(outcome: Outcome) -> list[tuple[str, ...]]:
    ingested, computed = outcome.ingested, outcome.computed
    return [
        ("checkpoints", *map(console.number, (ingested.read - ingested.failed, ingested.unchanged, ingested.failed))),
        ("units", *map(console.number, (computed.measured, computed.present, computed.failures))),
    ]
