"""The numbers in the page's tables are those of report.zarr, read by other means; so are the doc's examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import pipeline
from pipeline.report.compare import key_variables, series_of
from tests.end_to_end.archives import SHAPES, write_adapter, write_run

DOCUMENT = Path(__file__).parents[3] / "docs" / "report.md"
FULL, LORA = "demo/finetune/full", "demo/finetune/lora"
HEADS = {f"layers.0.self_attn.{part}_proj.weight": (24, 24) for part in "vo"}
ANALYZERS = ["weight_spectra", "intruder_dimensions", "intrinsic_dimension"]
Row = dict[str, str]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a full fine-tune with attention heads and a log, and of an adapter of one step."""
    folder = tmp_path_factory.mktemp("page")
    full = write_run(folder / "demo" / "finetune" / "full", 4, drift=0.3, shapes=SHAPES | HEADS)
    (full / "config.json").write_text(json.dumps({"num_attention_heads": 2, "hidden_size": 24}))
    log = [{"step": s, "loss": 1 / (s + 1), "eval_samples_per_second": 7.5, "eval_loss": 1.0} for s in (0, 10, 20)]
    state = {"global_step": 30, "max_steps": 30, "log_history": log}
    (full / "checkpoint-30" / "trainer_state.json").write_text(json.dumps(state))
    (full / "checkpoint-30" / "optimizer.pt").write_bytes(b"")
    write_adapter(folder / "demo" / "finetune" / "lora", 10, base="../../full/checkpoint-0")
    store = pipeline.ingest(folder / "demo", folder / "S.zarr")
    assert pipeline.compute(store, ANALYZERS).complete
    pipeline.write_report(pipeline.assemble(store, ANALYZERS), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def tree(out: Path) -> xr.DataTree:
    return xr.open_datatree(out / "report.zarr", engine="zarr")


@dataclass
class PageTable:
    caption: str
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def named(self) -> Iterator[Row]:
        for row in self.rows:
            yield dict(zip(self.columns, row, strict=True))


class Tables(HTMLParser):
    """The tables of a page with their captions and cells, and what its details elements are called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[PageTable] = []
        self.summaries: list[str] = []
        self.folded: dict[str, str] = {}
        self._caption, self._inside, self._details = "", "", [""]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = "caption" if ("class", "caption") in attrs else tag
        if self._inside == "caption":
            self._caption = ""
        elif tag == "table":
            self.tables.append(PageTable(self._caption))
            self._caption = ""
        elif tag == "th":
            self.tables[-1].columns.append("")
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag == "td":
            self.tables[-1].rows[-1].append("")
        elif tag == "details":
            self._details.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "details":
            self._details.pop()
        elif tag == "thead":
            self.tables[-1].rows.clear()

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self._caption += data
        elif self._inside == "th":
            self.tables[-1].columns[-1] += data
        elif self._inside == "td":
            self.tables[-1].rows[-1][-1] += data
        elif self._inside == "summary":
            self._details[-1] = data
        elif self._inside == "h3":
            self.folded[data] = self._details[-1]


def value(cell: str) -> float:
    return float("nan") if cell == "–" else float(cell.replace("−", "-"))


def shows(cell: str, expected: float, digits: int = 3) -> None:
    """The cell is the number, rounded to so many digits."""
    np.testing.assert_allclose(value(cell), expected, rtol=0.51 * 10.0 ** (1 - digits), atol=1e-12)


def chosen(variable: xr.DataArray) -> xr.DataArray:
    """At the convention that the captions name."""
    at = {"side": "left", "k": 10, "epsilon": 0.5, "matched_to": "geometric_mean"}
    return variable.sel({dim: entry for dim, entry in at.items() if dim in variable.dims})


def last(variable: xr.DataArray) -> xr.DataArray:
    """At the last step with a value."""
    there = variable.notnull().any([d for d in variable.dims if d != "step"])
    return variable.isel(step=int(np.flatnonzero(there.values)[-1]))


def check_runs(table: PageTable, tree: xr.DataTree) -> None:
    runs = tree["archive/runs"].to_dataset().to_dataframe().set_index("run")
    assert {row["run"] for row in table.named()} == set(runs.index)
    for row in table.named():
        stored = runs.loc[row["run"]]
        assert [row[c] for c in ("kind", "checkpoints", "first step", "last step", "format", "compared with")] == [
            str(stored[c]) for c in ("kind", "checkpoints", "first_step", "last_step", "formats", "base")
        ]


def check_notes(table: PageTable, tree: xr.DataTree) -> None:
    notes = tree["archive/notes"].to_dataset()
    stored = list(zip(notes["run"].values, notes["note"].values, strict=True))
    assert [(row["run"], row["note"]) for row in table.named()] == stored
    assert [run for run, _ in stored] == [FULL]


def check_skipped(table: PageTable, tree: xr.DataTree) -> None:
    skipped = tree["archive/skipped"].to_dataset().to_dataframe()
    counts = skipped[skipped["wrong"] == 0].groupby("reason")["count"].sum()
    assert {row["reason"]: value(row["values"]) for row in table.named()} == counts.to_dict()


def check_unmeasured(table: PageTable, tree: xr.DataTree) -> None:
    stored = tree["archive/unmeasured"].to_dataset().to_dataframe().groupby("reason")
    counts = {reason: (float(g["tensor"].nunique()), float(g["run"].nunique())) for reason, g in stored}
    assert {r["reason"]: (value(r["tensors"]), value(r["runs"])) for r in table.named()} == counts


def check_totals(table: PageTable, tree: xr.DataTree) -> None:
    node = tree["intruder_dimensions"].to_dataset()
    assert [row["run"] for row in table.named()] == [FULL, LORA]
    for row in table.named():
        of_run = node.sel(run=row["run"])
        count = last(chosen(of_run["n_intruders"]))
        at = {"step": int(count["step"])}
        null = chosen(of_run["n_intruders_null"]).sel(at)
        assert value(row["last step"]) == at["step"]
        assert value(row["matrices"]) == int(count.notnull().sum())
        assert value(row["count"]) == float(count.sum()) <= 10 * value(row["matrices"])
        bounds = [chosen(of_run[f"n_intruders_{end}"]).sel(at).sum() for end in ("low", "high")]
        assert value(row["undetermined"]) == float(bounds[1] - bounds[0])
        shows(row["null, mean"], float(chosen(of_run["total_intruders_null"]).sel(at)))
        shows(row["excess"], float((count - null).sum()))
        shows(row["at matched ‖Δ‖_F"], float(chosen(of_run["n_intruders_matched"]).sum(skipna=True, min_count=1)))
        low, high = (chosen(of_run[f"total_intruders_null_{end}"]).sel(at) for end in ("low", "high"))
        for end, cell in zip((low, high), row["95 % of the null"].split(" … "), strict=True):
            shows(cell, float(end))


def check_births(table: PageTable, tree: xr.DataTree) -> None:
    node = tree["intruder_dimensions"].to_dataset()
    for row in table.named():
        born = chosen(node["birth_step"].sel(run=row["run"])).values.ravel()
        born = np.sort(born[np.isfinite(born)])
        assert value(row["intruders at the last step"]) == born.size
        assert value(row["first born by step"]) == born[0]
        assert value(row["half born by step"]) == born[int(np.ceil(born.size / 2)) - 1]


def check_pairs(table: PageTable, tree: xr.DataTree) -> None:
    node = tree["intruder_dimensions"].to_dataset()
    (row,) = table.named()
    assert [row[c] for c in ("run", "at step", "other run", "at its step")] == [FULL, "30", LORA, "10"]
    cosines = node["delta_cosine"].sel(run=FULL, other_run=LORA)
    shows(row["median"], float(cosines.median("matrix")))
    assert value(row["matrices"]) == int(cosines.notnull().sum()) == 4


def check_paths(table: PageTable, tree: xr.DataTree) -> None:
    node = tree["intrinsic_dimension"].to_dataset().isel(group=0)
    (row,) = table.rows
    of_run = node.sel(run=row[0])
    assert row[0] == FULL
    expected = [
        of_run["explained_variance"].isel(component=0),
        of_run["explained_variance_null"].isel(component=0),
        of_run["path_dimension"],
        of_run["path_dimension_null"],
        of_run["explained_variance"].isel(component=slice(2)).sum(),
        of_run["joint_share_of_path"].isel(axis=slice(2)).sum(),
        last(of_run["relative_distance"]),
    ]
    for cell, number in zip(row[1:], expected, strict=True):
        shows(cell, float(number))


def check_movers(table: PageTable, tree: xr.DataTree) -> None:
    spectra, changes = tree["weight_spectra"].to_dataset(), tree["intruder_dimensions"].to_dataset()
    moved = []
    for row in table.named():
        of_matrix = {"run": row["run"], "matrix": row["matrix"]}
        moved.append(float(last(changes["relative_change"].sel(of_matrix))))
        shows(row["moved"], moved[-1])
        ranks = spectra["stable_rank"].sel(of_matrix).dropna("step").values
        first, arrow, end, change = row["stable rank"].split(" ")
        assert arrow == "→"
        shows(first, ranks[0])
        shows(end, ranks[-1])
        shows(change.strip("()+"), ranks[-1] - ranks[0], 2)
        shows(row["intruders"], float(last(chosen(changes["n_intruders"].sel(of_matrix)))))
        shows(row["null"], float(last(chosen(changes["n_intruders_null"].sel(of_matrix)))))
    assert moved == sorted(moved, reverse=True) and len(moved) == 9


def check_analyzers(table: PageTable, tree: xr.DataTree) -> None:
    stored = json.loads(tree.attrs["analyzers"])
    assert [(r["analyzer"], r["version"]) for r in table.named()] == [(a["name"], str(a["version"])) for a in stored]


def check_provenance(table: PageTable, tree: xr.DataTree) -> None:
    values = dict(table.rows)
    assert values["store schema"] == str(tree.attrs["store_schema"]) and values["device"] == tree.attrs["device"]


CHECKS: dict[str, Callable[[PageTable, xr.DataTree], None]] = {
    "The runs in this report": check_runs,
    "What was ignored by design": check_notes,
    "Values that are not measured": check_skipped,
    "Tensors that are not measured": check_unmeasured,
    "Totals over matrices": check_totals,
    "Births of the last step": check_births,
    "delta cosine: ": check_pairs,
    "The path of each run": check_paths,
    "Largest first": check_movers,
    "Analyzers.": check_analyzers,
}


def test_every_table_of_the_page_shows_what_the_report_holds(out: Path, tree: xr.DataTree) -> None:
    tables = Tables((out / "report.html").read_text()).tables
    checked = set()
    for table in tables:
        name = next((name for name in CHECKS if table.caption.startswith(name)), None)
        if name is None:
            assert table.caption == "" and not any(table.columns), table.caption
            check_provenance(table, tree)
        else:
            checked.add(name)
            CHECKS[name](table, tree)
    assert checked == set(CHECKS)


def test_speed_is_folded_away_and_losses_are_not(out: Path) -> None:
    folded = Tables((out / "report.html").read_text()).folded
    assert folded["loss"] == folded["eval loss"] == ""
    assert folded["eval samples per second"] == "1 metric of speed and cost"


def test_the_examples_of_the_docs_give_the_numbers_of_the_page(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(out.parent)  # the examples open out/report.zarr
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, xr.DataArray] = {}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    tree = pipeline.report.load(out / "report.zarr")
    variable = next(v for v in key_variables(tree) if v.name == "stable_rank")
    drawn = {series.run: series for series in series_of(variable)}[FULL]
    median = names["median"].dropna("step")
    np.testing.assert_array_equal(median["step"].values, drawn.steps)
    np.testing.assert_array_equal(median.values, drawn.median)
    every = tree["weight_spectra/stable_rank"].sel(run=FULL).median("matrix").dropna("step")
    assert not np.array_equal(every.values, drawn.median)  # the circuits would change it
    assert names["sigma"].sizes["step"] == 4
