"""The page's section on pathways, from a report made in memory."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analyzers.pathway_metrics.variables import BY_NAME
from pipeline.report.blocks import Details, Gallery, PageTable, Prose
from pipeline.report.compare import KeyVariable
from pipeline.report.look import Look
from pipeline.report.pathway_figures import pathway_section
from pipeline.report.pathway_text import sentence
from pipeline.report.summary import _moved
from tests.pipeline.report.synthetic import logged

RUNS, STEPS = ["a/one", "a/two"], np.arange(0, 1200, 100)
SIZES = {
    "run": 2,
    "step": 12,
    "probe": 1,
    "threshold": 2,
    "column": 1,
    "router": 2,
    "expert": 4,
    "other_expert": 4,
    "domain": 2,
}


def report(*names: str) -> xr.DataTree:
    """These variables filled with numbers in (0, 1); the second run was measured at its first five steps only."""
    draw = np.random.default_rng(0)
    data = {}
    for name in names:
        dims = BY_NAME[name].dims
        values = draw.uniform(0.1, 0.9, tuple(SIZES[d] for d in dims))
        values[1, 5:] = np.nan
        data[name] = (dims, values)
    dataset = xr.Dataset(data)
    known = {"run": RUNS, "step": STEPS, "probe": ["p"], "threshold": [0.5, 0.7], "column": ["class"]}
    dataset = dataset.assign_coords({d: known[d] for d in dataset.dims if d in known})
    return xr.DataTree.from_dict({"/pathway_metrics": dataset})


EVERYTHING = (
    "pathway_distance",
    "pathway_distance_normalised",
    "pathway_length",
    "routing_entropy",
    "grouped_distance_ratio",
    "grouped_distance_ratio_low",
    "grouped_distance_ratio_high",
    "grouped_distance_ratio_p",
    "consistency_cosine",
    "probe_loss",
    "expert_load",
    "coactivation",
    "domain_specialisation",
    "domain_specialisation_chance",
    "vocabulary_specialisation_by_router",
    "vocabulary_specialisation_chance",
)


def look(tree: xr.DataTree) -> Look:
    return Look.of(tree, RUNS, STEPS)


def test_everything_that_was_measured_is_shown() -> None:
    tree = report(*EVERYTHING)
    section = pathway_section(tree, look(tree))
    assert section is not None
    gallery, last, correlations = section.blocks[:3]
    assert isinstance(gallery, Gallery) and isinstance(last, PageTable) and isinstance(correlations, PageTable)
    titles = [image.title for image in gallery.images]
    assert titles == [
        "Pathways beside the loss",
        "Load of the experts",
        "Experts chosen together",
        "Domain specialisation",
        "Vocabulary specialisation",
    ]
    assert len(last.rows) == 2
    whole = section.blocks[3]
    assert isinstance(whole, Details) and isinstance(whole.blocks[0], PageTable)
    assert any("n_eff < 8" in cell for row in whole.blocks[0].rows for cell in row)  # the run of five steps


def test_the_cells_of_the_last_steps_are_the_reports_numbers() -> None:
    tree = report(*EVERYTHING)
    section = pathway_section(tree, look(tree))
    assert section is not None and isinstance(section.blocks[1], PageTable)
    table = section.blocks[1]
    at = tree["pathway_metrics"].to_dataset().sel(threshold=0.7).isel(probe=0, column=0)
    names = {name.replace("pathway_", "").replace("_", " "): name for name in EVERYTHING[:5]}
    for run, row in zip(RUNS, table.rows, strict=True):
        cells = dict(zip(table.columns, row, strict=True))
        assert cells["run"] == run
        for heading, name in names.items():
            values = at[name].sel(run=run).dropna("step").values
            assert cells[heading] == f"{values[0]:.3g} → {values[-1]:.3g}"
        last_p = at["grouped_distance_ratio_p"].sel(run=run).dropna("step").values[-1]
        assert cells["p of the last ratio"] == f"{last_p:.3g}"


def test_a_report_with_distances_only_still_has_its_section() -> None:
    tree = report("pathway_distance", "pathway_distance_normalised", "pathway_length", "probe_loss")
    section = pathway_section(tree, look(tree))
    assert section is not None and isinstance(section.blocks[0], Gallery)
    assert len(section.blocks[0].images) == 1


def test_the_archives_own_losses_come_before_the_probes() -> None:
    tree = report(*EVERYTHING)
    losses = {"eval_loss": np.geomspace(2, 0.1, 24).reshape(2, 12)}
    tree["metrics"] = xr.DataTree(logged(losses, RUNS, STEPS))
    section = pathway_section(tree, look(tree))
    assert section is not None and isinstance(section.blocks[2], PageTable)
    assert {row[1] for row in section.blocks[2].rows} == {"eval loss"}


def test_metrics_are_correlated_with_the_score_that_the_archive_logs() -> None:
    """Of the first run, whose twelve accuracies follow the ratio exactly; the second logs none."""
    tree = report(*EVERYTHING)
    ratio = tree["pathway_metrics"]["grouped_distance_ratio"].sel(run="a/one", threshold=0.7).values.ravel()
    metrics = {
        "eval/loss": np.geomspace(2, 0.1, 24).reshape(2, 12),
        "eval/accuracy": np.stack([1 - ratio, np.full(12, np.nan)]),
    }
    tree["metrics"] = xr.DataTree(logged(metrics, RUNS, STEPS))
    section = pathway_section(tree, look(tree))
    assert section is not None and isinstance(section.blocks[2], PageTable)
    rows = {row[:2]: row[2:] for row in section.blocks[2].rows}
    assert set(rows) == {("a/one", "eval loss"), ("a/one", "eval accuracy"), ("a/two", "eval loss")}
    at = section.blocks[2].columns.index("grouped distance ratio") - 2
    assert rows["a/one", "eval accuracy"][at].startswith("−1.00")


def test_the_first_paragraph_names_the_smallest_ratios_beside_chance() -> None:
    tree = report(*EVERYTHING)
    values = tree["pathway_metrics"].to_dataset().sel(threshold=0.7).isel(probe=0, column=0)
    last = float(values["grouped_distance_ratio"].sel(run="a/two").isel(step=4))
    said = sentence(tree, look(tree))
    assert said.startswith("Pathway distance within a class over that between them (1 is chance): ")
    assert f"{last:.3g} (" in said and " in two" in said
    assert sentence(xr.DataTree(), look(tree)) == ""


def test_of_five_runs_the_three_smallest_ratios_are_named_in_order() -> None:
    tree = report(*EVERYTHING)
    one = tree["pathway_metrics"].to_dataset().isel(run=[0])
    runs = [f"a/{i}" for i in range(5)]
    five = xr.concat([one + shift for shift in (0.3, 0.1, 0.4, 0.0, 0.2)], "run").assign_coords(run=runs)
    said = sentence(xr.DataTree.from_dict({"/pathway_metrics": five}), Look.of(tree, runs, STEPS))
    assert "; the 3 smallest of 5 runs" in said
    assert said.index(" in 3") < said.index(" in 1") < said.index(" in 4") and " in 0" not in said


def test_a_variable_without_matrices_has_no_median_over_them() -> None:
    values = xr.DataArray([[4.0, 1.0]], dims=("run", "step"), coords={"run": ["a/one"], "step": [0, 10]})
    tree = report(*EVERYTHING)
    said = _moved([KeyVariable("pathway_metrics", "probe_loss", "mean loss", "nat", True, values)], look(tree))
    assert said == "Between first and last measured step, mean loss fell from 4 to 1 in one."


def test_of_many_runs_the_first_and_the_last_are_drawn_and_the_page_says_how_many() -> None:
    tree = report(*EVERYTHING)
    one = tree["pathway_metrics"].to_dataset().isel(run=[0])
    runs = [f"a/{i}" for i in range(9)]
    tree = xr.DataTree.from_dict({"/pathway_metrics": xr.concat([one] * 9, "run").assign_coords(run=runs)})
    section = pathway_section(tree, Look.of(tree, runs, STEPS))
    assert section is not None and isinstance(section.blocks[0], Gallery)
    words = section.blocks[0].images[0].alt
    assert "a/0:" in words and "a/8:" in words and words.count("ratio") == 6
    prose = section.blocks[-1]
    assert isinstance(prose, Prose) and any("Figures show 6 of 9 runs" in line for line in prose.items)


def test_without_pathways_there_is_no_section() -> None:
    tree = xr.DataTree.from_dict({"/pathway_metrics": xr.Dataset()})
    assert pathway_section(tree, look(tree)) is None
    assert pathway_section(xr.DataTree(), look(tree)) is None
