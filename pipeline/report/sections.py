"""The sections of the page, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from pipeline.report import intruder_totals
from pipeline.report.between_runs import tables_between_runs
from pipeline.report.birth_figures import births_figure, births_of, births_table
from pipeline.report.blocks import Block, Details, PageTable, Prose, Section, from_rows, gallery, number, several
from pipeline.report.compare import COUNTED, KeyVariable, compares, key_variables, measured_nodes
from pipeline.report.content_blocks import content_blocks
from pipeline.report.contents import Contents, archive_rows
from pipeline.report.figures import Image
from pipeline.report.heatmaps import heatmaps
from pipeline.report.intrinsic_figures import intrinsic_section
from pipeline.report.intruder_figures import epsilon_figure, excess_figure, steps_figure
from pipeline.report.intruder_totals import NORMS, Totals
from pipeline.report.left_out import not_analysed
from pipeline.report.look import Look
from pipeline.report.metric_figures import metrics_section
from pipeline.report.mode_figures import modes_figure, modes_of
from pipeline.report.movers import CHANGES, MoverTable, most_moved
from pipeline.report.pathway_figures import pathway_section
from pipeline.report.plots import curves
from pipeline.report.provenance import parsed
from pipeline.report.spectra import spectra_figure, spectrum_of
from pipeline.report.summary import sentences
from pipeline.report.wording import in_unit

PANELS = 4
"""Runs per figure of panels."""
SHOWN_RUNS = 16
"""Runs that get heatmaps and intruder panels; the others stand in report.zarr."""
SHOWN_VARIABLES = 18
"""Key variables shown at once; further ones stand behind a click."""
BASE_KINDS = {
    "given": "given by --base",
    "catalog": "by the catalog",
    "sibling": "a base/ folder nearby",
    "adapter_config": "by the adapter's config",
    "hf_cache": "the adapter's config, in the Hugging Face cache",
    "first_step": "the run's own first step",
}
"""How a base was chosen, as stored → in words."""

CIRCUITS = (
    "No median, curve or heatmap of this page includes attention circuits (products of thin factors, one per head); "
    "report.zarr has their values."
)
PITFALLS = (
    (
        {"weight_spectra"},
        "α without its null is not evidence: 79 % of random 64 × 64 matrices also fall between 2 and 6.",
    ),
    (
        {intruder_totals.NODE},
        "An intruder count alone mostly reflects the size of the update: read it beside its null and the matched norm.",
    ),
    (
        {"weight_spectra", intruder_totals.NODE},
        "Singular values are those of the matrix oriented (out, in); for an adapter, those of its Δ unless stated.",
    ),
    (
        {"weight_spectra", intruder_totals.NODE},
        "Medians and quartiles are over the matrices that have a value at that step.",
    ),
)
"""Analyzers of which a pitfall speaks, and the pitfall: it stands where one of them measured something."""


def page(tree: xr.DataTree) -> list[Section]:
    """All sections that the tree has something for."""
    contents = Contents.of(tree)
    look = Look.of(tree, _all_runs(tree, contents), contents.steps)
    variables = list(key_variables(tree))
    movers = most_moved(tree)
    made = [
        Section(
            "summary",
            "Summary",
            (*content_blocks(contents), Prose(sentences(tree, contents, variables, movers, look), "paragraph")),
        ),
        _analysed(tree, contents),
        not_analysed(tree, contents),
        metrics_section(tree, look, SHOWN_VARIABLES),
        _curves(variables, look),
        _heatmaps(variables, contents.runs, look),
        _spectra(tree, movers, look),
        _intruders(tree, look),
        Section("between-runs", "Runs compared with one another", tuple(tables_between_runs(tree))),
        pathway_section(tree, look),
        intrinsic_section(tree, look),
        _movers(movers, look),
        _conventions(tree, contents),
        _provenance(tree),
    ]
    *told, provenance = [section for section in made if section is not None]
    return [in_unit(section, look.steps.unit) for section in told if section.blocks] + [provenance]


def _all_runs(tree: xr.DataTree, contents: Contents) -> list[str]:
    """Every run that a figure may show: those analysed first, then bases; "all" stands for variables without runs."""
    runs = [*contents.runs, *(str(row["run"]) for row in contents.run_rows)]
    for name in tree.children:
        dataset = tree[name].to_dataset()
        if "run" in dataset.coords:
            runs += [str(r) for r in dataset["run"].values.ravel()]
    return list(dict.fromkeys([*runs, "all"]))


def _analysed(tree: xr.DataTree, contents: Contents) -> Section:
    compared = compares(tree)
    rows = [
        {**row, "flag": _flag(row, compared), "base_kind": BASE_KINDS.get(str(row.get("base_kind")), "")}
        for row in contents.run_rows
    ]
    columns = {
        "run": "run",
        "kind": "kind",
        "checkpoints": "checkpoints",
        "first_step": "first step",
        "last_step": "last step",
        "formats": "format",
        "base": "compared with",
        "base_kind": "how the base was chosen",
        "flag": "note",
    }
    if not compared:
        del columns["base"], columns["base_kind"]
    table = from_rows("The runs in this report. Steps are numbered as in training.", rows, columns)
    if len(rows) <= 12:
        return Section("analysed", "What was analysed", (table,))
    return Section("analysed", "What was analysed", (Details(f"All {len(rows)} runs", (table,)),))


def _flag(row: Mapping[str, object], compared: bool) -> str:
    notes = []
    if row.get("role") == "base":
        notes.append("only compared with")
    if compared and row.get("base_kind") == "first_step":
        notes.append("⚑ the base is only the run’s own first saved step")
    if row.get("step_source") == "none":
        notes.append("step unknown, set to 0")
    return "; ".join(notes)


def _curves(variables: Sequence[KeyVariable], look: Look) -> Section:
    drawn = [image for v in variables if v.name not in COUNTED if (image := curves(v, look))]
    blocks: tuple[Block, ...] = gallery(drawn[:SHOWN_VARIABLES])
    if drawn[SHOWN_VARIABLES:]:
        rest = drawn[SHOWN_VARIABLES:]
        blocks += (Details(f"{several(len(rest), 'further curve')}", gallery(rest)),)
    if not drawn:
        blocks = (
            Prose(("No analyzer of this report declares key variables over runs; the tables are in report.zarr.",)),
        )
    if drawn and look.roles.circuits:
        blocks = (Prose((CIRCUITS,)), *blocks)
    return Section("curves", "Key variables over steps", blocks)


def _heatmaps(variables: Sequence[KeyVariable], runs: Sequence[str], look: Look) -> Section:
    first: list[Image | None] = []
    rest: list[Image | None] = []
    for variable in variables:
        if variable.name == "n_intruders_null":  # the excess says it
            continue
        first.append(heatmaps(variable, runs[:PANELS], look))
        rest += [
            heatmaps(variable, runs[i : i + PANELS], look) for i in range(PANELS, min(len(runs), SHOWN_RUNS), PANELS)
        ]
    blocks: tuple[Block, ...] = gallery(first[:SHOWN_VARIABLES])
    hidden = gallery([*first[SHOWN_VARIABLES:], *rest])
    if hidden:
        blocks += (Details("Further runs and variables", hidden),)
    if blocks and len(runs) > SHOWN_RUNS:
        blocks += (Prose((f"The first {SHOWN_RUNS} of {len(runs)} runs are drawn; report.zarr has all of them.",)),)
    return Section("heatmaps", "Layer by step", blocks)


def _spectra(tree: xr.DataTree, movers: MoverTable | None, look: Look) -> Section | None:
    if movers is None:
        return None
    chosen = [s for m in movers.movers[:6] if (s := spectrum_of(tree, m.run, m.matrix)) is not None]
    followed = [m for mover in movers.movers[:6] if (m := modes_of(tree, mover.run, mover.matrix)) is not None]
    figures = gallery([spectra_figure(chosen, look), modes_figure(followed, look)])
    return Section("spectra", "Singular values of the matrices that moved most", figures)


def _intruders(tree: xr.DataTree, look: Look) -> Section | None:
    if not intruder_totals.has_counts(tree):
        return None
    totals, label = intruder_totals.over_steps(tree)
    sweep, sweep_label = intruder_totals.over_epsilon(tree)
    if not totals:
        return None
    figures: list[list[Image | None]] = []
    for i in range(0, min(len(totals), SHOWN_RUNS), PANELS):
        figures.append([steps_figure(totals[i : i + PANELS], look, label)])
        if sweep[i : i + PANELS]:
            figures[-1].append(epsilon_figure(sweep[i : i + PANELS], look, sweep_label))
    births, births_label = births_of(tree)
    drawn = [*figures[0], excess_figure(totals, look, label), births_figure(births[:SHOWN_RUNS], look, births_label)]
    blocks: list[Block] = [*gallery(drawn), _totals_table(totals, label)]
    if (table := births_table(births, births_label)) is not None:
        blocks.append(table)
    further = gallery([figure for group in figures[1:] for figure in group])
    if further:
        blocks.append(Details("Further runs", further))
    return Section("intruders", "Intruder dimensions beside their controls", tuple(blocks))


def _totals_table(totals: Sequence[Totals], label: str) -> PageTable:
    rows = [
        {
            "run": t.run,
            "step": t.step,
            "matrices": t.matrices,
            "count": t.count[-1],
            "undetermined": t.count_high[-1] - t.count_low[-1],
            "null": t.null[-1],
            "interval": f"{number(t.null_low[-1])} … {number(t.null_high[-1])}" if np.isfinite(t.null_low[-1]) else "",
            "excess": t.excess[-1],
            "matched": t.matched[-1],
            **{m.norm: m.count for m in t.at_common_norm if m.norm != NORMS["frobenius"]},
            **{f"null at {m.norm}": m.chance() for m in t.at_common_norm},
            "verdict": t.verdict(),
        }
        for t in totals
    ]
    columns = {
        "run": "run",
        "step": "last step",
        "matrices": "matrices",
        "count": "count",
        "undetermined": "undetermined",
        "null": "null, mean",
        "interval": "95 % of the null",
        "excess": "excess",
        "matched": "at matched ‖Δ‖_F",
        "null at ‖Δ‖_F": "null at matched ‖Δ‖_F",
        "‖Δ‖₂": "at matched ‖Δ‖₂",
        "null at ‖Δ‖₂": "null at matched ‖Δ‖₂",
        "verdict": "sweep against the null",
    }
    columns = {name: title for name, title in columns.items() if any(name in row for row in rows)}
    caption = (
        f"Totals over matrices at each run’s last step ({label}). Undetermined: scores that rounding may put on either "
        "side of ε. The last column tests all sides, k and ε at once (max-T): p with its 95 % Monte-Carlo interval, "
        "corrected by Holm over the runs and over more and fewer. It is about this run’s matrices, not the method "
        "that trained it. At matched norms, counts of two runs compare only together with their nulls."
    )
    if any(0 < t.matched_matrices < t.matrices for t in totals):
        listed = ", ".join(f"{t.matched_matrices} of {t.matrices} in {t.run}" for t in totals if t.matched_matrices)
        caption += f" At matched norm: only over matrices that another run has as well ({listed})."
    return from_rows(caption, rows, columns)


def _movers(table: MoverTable | None, look: Look) -> Section | None:
    if table is None:
        return None
    names = [n for n in CHANGES if any(n in m.first_last for m in table.movers)]
    counts = [n for n in COUNTED if any(n in m.counts for m in table.movers)]
    rows = []
    for m in table.movers:
        ends = {n: f"{number(a)} → {number(b)} ({number(b - a, 2, sign=True)})" for n, (a, b) in m.first_last.items()}
        rows.append({"run": m.run, "matrix": look.matrix(m.matrix), "moved": m.moved, **ends, **m.counts})
    columns = {"run": "run", "matrix": "matrix", "moved": "moved"} | {n: n.replace("_", " ") for n in names}
    headings = {
        "n_intruders": "intruders",
        "n_intruders_null": "null",
        "excess_intruders": "excess",
        "n_intruders_matched": "matched",
    }
    columns |= {n: headings[n] for n in counts}
    counted = f" Intruder counts at {table.counted}, last step." if table.counted and counts else ""
    others = " Others: first → last measured step (change)." if names else ""
    caption = f"Largest first, at most five of each run. Moved: {table.measure}.{others}{counted}"
    return Section("movers", "Matrices that moved most", (from_rows(caption, rows, columns),))


def _conventions(tree: xr.DataTree, contents: Contents) -> Section:
    measured = set(measured_nodes(tree))
    items = [
        "The seed (the run) is the unit of replication. Spreads over matrices describe one model, not a method.",
        *(text for nodes, text in PITFALLS if nodes & measured),
    ]
    flagged = [str(row["run"]) for row in contents.run_rows if row.get("base_kind") == "first_step"]
    if flagged and compares(tree):
        listed = ", ".join(flagged[:8]) + (f" and {len(flagged) - 8} more" if len(flagged) > 8 else "")
        items.append(f"⚑ Compared only with their own first saved step, not with a known base: {listed}.")
    blocks: list[Block] = [Prose(tuple(items))]
    notes = list(_notes(tree))
    if notes:
        blocks.append(Prose(tuple(notes)))
    return Section("conventions", "Conventions and pitfalls", tuple(blocks), "notice")


def _notes(tree: xr.DataTree) -> Iterator[str]:
    """Of the analyzers that measured something; the others' stand with what was not analysed."""
    for node in measured_nodes(tree):
        for line in str(tree[node].attrs.get("notes", "")).splitlines():
            if line.strip():
                yield f"{node}: {line.strip()}"


def _provenance(tree: xr.DataTree) -> Section:
    attrs = tree.attrs
    rows = [{"what": what, "value": str(attrs[key])} for what, key in _ATTRIBUTES.items() if attrs.get(key)]
    for name in ("machine", "software"):
        values = parsed(attrs, name, {})
        if isinstance(values, dict) and values:
            rows.append({"what": name, "value": ", ".join(f"{k} {v}" for k, v in values.items())})
    blocks: list[Block] = [from_rows("", rows, {"what": "", "value": ""})]
    described = parsed(attrs, "analyzers", [])
    if described:
        analyzers = [
            {
                "name": one.get("name"),
                "version": str(one.get("version")),
                "parameters": ", ".join(f"{k} = {v}" for k, v in one.get("parameters", {}).items()),
                "statistics": ", ".join(f"{s['name']} v{s['version']}" for s in one.get("statistics", [])),
            }
            for one in described
        ]
        columns = {"name": "analyzer", "version": "version", "parameters": "parameters", "statistics": "statistics"}
        blocks.append(from_rows("Analyzers.", analyzers, columns))
    checkpoints = "provenance" in tree.children and tree["provenance"].to_dataset()
    if checkpoints:
        count = next(iter(checkpoints.sizes.values()), 0)
        blocks.append(Prose((f"Digests of {several(count, 'checkpoint')} are in /provenance of report.zarr.",)))
    maps = archive_rows(tree, "parameters")
    if maps:
        blocks.append(Prose((f"Which tensors each matrix was cut from ({len(maps)} entries): /archive/parameters.",)))
    return Section("provenance", "Provenance", tuple(blocks))


_ATTRIBUTES = {
    "archive": "archive",
    "store": "store",
    "store schema": "store_schema",
    "made": "created",
    "varve": "varve_version",
    "device": "device",
    "conventions": "Conventions",
}
