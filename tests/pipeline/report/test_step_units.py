"""The report calls epochs epochs, and says which runs count what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import xarray as xr

import pipeline
from pipeline.report.html import render
from pipeline.report.step_units import axis_label, mixed_units, unit_of
from pipeline.report.wording import said_in


def _report(folder: Path, *names: str) -> xr.DataTree:
    for name in names:
        path = folder / "runs" / f"{name}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"fc.weight": torch.randn(8, 8), "out.weight": torch.randn(4, 8)}, path)
    store = pipeline.ingest(folder / "runs", folder / "S.zarr", name="net")
    pipeline.compute(store, ["weight_spectra"], workers=1)
    return pipeline.assemble(store, ["weight_spectra"])


def _text(page: str) -> str:
    """What a reader sees of a page, and the descriptions of its figures, without the provenance."""
    descriptions = " ".join(re.findall(r'alt="([^"]*)"', page))
    body = page[page.index("<body") : page.index('id="provenance"')]
    return f"{re.sub(r'<[^>]*>', ' ', body)} {descriptions}"


def test_a_report_over_epochs_says_epoch_on_axes_in_attributes_and_in_sentences(tmp_path: Path) -> None:
    tree = _report(tmp_path, "epoch_1", "epoch_2", "epoch_3")
    assert tree.attrs["step_unit"] == "epoch"
    assert tree["weight_spectra"]["step"].attrs["long_name"] == "epoch"
    assert list(tree["/archive/runs"]["step_unit"].values) == ["epoch"]
    page = render(tree)
    assert "between epoch 1 and epoch 3" in page and "training step" not in page


def test_runs_that_count_different_things_are_named(tmp_path: Path) -> None:
    tree = _report(tmp_path, "a/epoch_1", "a/epoch_2", "b/step_10", "b/step_20")
    assert tree.attrs["step_unit"] == "mixed"
    assert "their steps are epochs in net/a and steps in net/b" in render(tree)


@pytest.mark.parametrize(
    ("units", "unit", "label"),
    [
        (["step", "step"], "step", "training step"),
        (["episode"], "episode", "episode"),
        ([""], "step", "training step"),
        (["epoch", "step"], "mixed", "step (the unit differs over runs)"),
    ],
)
def test_the_unit_of_a_report(units: list[str], unit: str, label: str) -> None:
    rows = tuple({"run": f"run{at}", "role": "run", "step_unit": each} for at, each in enumerate(units))
    assert (unit_of(rows), axis_label(unit)) == (unit, label)
    assert bool(mixed_units(rows)) == (unit == "mixed")


def test_a_base_and_a_checkpoint_without_a_step_have_no_say() -> None:
    rows = (
        {"run": "a", "role": "run", "step_unit": "epoch"},
        {"run": "base", "role": "base", "step_unit": "step"},
        {"run": "lone", "role": "run", "step_unit": ""},
    )
    assert unit_of(rows) == "epoch" and mixed_units(rows) == ""


@pytest.mark.parametrize("count", [1, 3])
def test_captions_and_descriptions_of_figures_say_epoch(tmp_path: Path, count: int) -> None:
    page = render(_report(tmp_path, *(f"{run}/epoch_{at}" for run in "ab" for at in range(1, count + 1))))
    figures = re.findall(r'(?:alt="|<figcaption[^>]*>)([^"<]*)', page)
    assert any("epoch" in text for text in figures)
    assert not [text for text in figures if re.search(r"\bsteps? \d|each measured step|has one step", text)]


def test_a_report_over_epochs_says_step_nowhere(tmp_path: Path) -> None:
    said = _text(render(_report(tmp_path, *(f"{run}/epoch_{at}" for run in ("a", "b") for at in (1, 2, 3, 4)))))
    assert "Layer by epoch" in said and "first → last measured epoch" in said
    assert not re.findall(r".{30}\b[Ss]teps?\b.{30}", said)
    assert "Layer by step" in _text(render(_report(tmp_path / "other", "step_1", "step_2", "step_3")))


@pytest.mark.parametrize(
    "name",
    [
        "run/step-10",
        "step_1",
        "lora/step",
        "zoo@step",
        "--steps",
        "step.pt",
        "*step*",
        "global_step",
        "`step`",
        "step=5",
    ],
)
def test_names_and_options_keep_their_words(name: str) -> None:
    assert (
        said_in(f"At the last step of {name}, steps differ.", "epoch") == f"At the last epoch of {name}, epochs differ."
    )
    assert said_in("the step of one parameter", "epoch") == "the step of one parameter"
