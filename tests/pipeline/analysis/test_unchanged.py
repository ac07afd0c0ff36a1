"""An analysis with nothing to add is recognised from names, sizes and times, before anything heavy is imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flows.cli.app import run
from pipeline.analysis.lock import StoreBusy, writing
from pipeline.analysis.outcome import Computed, Done, Ingested, Outcome, Written
from pipeline.analysis.request import AnalysisRequest
from pipeline.analysis.unchanged import inputs_of, remember, unchanged
from pipeline.store import Store
from tests.end_to_end.archives import write_run

DONE = Done(2, 7, ("pure bf16",), (), ("b.pt: damaged",))


@pytest.fixture
def analysed(tmp_path: Path) -> AnalysisRequest:
    """Options whose report stands, with an archive, a base, and a record of it all."""
    for name in (
        "runs/a/step_1.pt",
        "runs/a/step_2.pt",
        "given/model.pt",
        "out/report.html",
        "out/report.zarr/zarr.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    options = AnalysisRequest(runs=str(tmp_path / "runs"), out=str(tmp_path / "out"), base=(str(tmp_path / "given"),))
    remember(options, inputs_of(options), DONE, Store.create(options.store_path))
    return options


def test_the_same_options_on_the_same_files_have_nothing_to_add(analysed: AnalysisRequest) -> None:
    earlier = unchanged(analysed)
    assert earlier is not None
    assert earlier.html == Path(analysed.out) / "report.html"
    assert earlier.done == DONE


def _append(path: Path) -> None:
    path.write_text(path.read_text() + "more")


def _rewrite(path: Path) -> None:
    """Another content of the same size at another time."""
    path.write_text("X" * len(path.read_text()))
    os.utime(path, ns=(1, 1))


def _new(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("new")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a checkpoint grew": (_append, "runs/a/step_1.pt"),
    "a checkpoint was rewritten": (_rewrite, "runs/a/step_1.pt"),
    "a checkpoint is gone": (Path.unlink, "runs/a/step_2.pt"),
    "a checkpoint came": (_new, "runs/b/step_1.pt"),
    "the base changed": (_append, "given/model.pt"),
    "a base appeared beside the archive": (_new, "base/model.pt"),
    "the page is gone": (Path.unlink, "out/report.html"),
    "the report was written by another": (_append, "out/report.zarr/zarr.json"),
    "the store was written to": (_new, "out/store.zarr/runs/b/zarr.json"),
    "the record is damaged": (_append, "out/.report-inputs.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_seen(analysed: AnalysisRequest, tmp_path: Path, change: str) -> None:
    apply, path = CHANGES[change]
    apply(tmp_path / path)
    assert unchanged(analysed) is None


@pytest.mark.parametrize(
    "other",
    [{"rehash": True}, {"profile": True}, {"steps": "last"}, {"settings": {"weight_spectra": {"track": False}}}],
    ids=str,
)
def test_other_options_are_another_analysis(analysed: AnalysisRequest, other: dict[str, object]) -> None:
    assert unchanged(analysed.model_copy(update=other)) is None


def test_an_incomplete_analysis_is_tried_again(analysed: AnalysisRequest) -> None:
    remember(analysed, inputs_of(analysed), None, Store.open(analysed.store_path))
    assert unchanged(analysed) is None


def test_an_archive_that_changed_during_the_analysis_is_not_recorded(analysed: AnalysisRequest, tmp_path: Path) -> None:
    before = inputs_of(analysed)
    _append(tmp_path / "runs/a/step_2.pt")
    remember(analysed, before, DONE, Store.open(analysed.store_path))
    assert unchanged(analysed) is None


def test_an_output_folder_inside_the_archive_does_not_count_as_a_change(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "step_1.pt").write_text("weights")
    options = AnalysisRequest(runs=str(tmp_path / "runs"), out=str(tmp_path / "runs" / "out"))
    before = inputs_of(options)
    Path(options.out).mkdir()
    remember(options, before, DONE, Store.create(options.store_path))
    assert unchanged(options) is not None


COMMAND = """
import json, sys
from flows.cli.app import run
code = run(["analyze", "runs", "--out", "out", "--no-flow", "--analyzers", "weight_spectra"])
print(json.dumps([code, "torch" in sys.modules, "zarr" in sys.modules]))
"""


def test_the_second_command_imports_nothing_heavy_and_leaves_the_report_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for step in (1, 2):
        torch.save({"layer.weight": torch.randn(8, 8)}, tmp_path / "runs" / f"step_{step}.pt")

    def command() -> tuple[str, list[object]]:
        done = subprocess.run([sys.executable, "-c", COMMAND], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout, json.loads(done.stdout.splitlines()[-1])

    assert command()[1] == [0, True, True]
    before = _times(tmp_path / "out")
    text, answer = command()
    assert answer == [0, False, False]
    assert "Nothing to read: the store already holds 2 checkpoints" in text
    assert "Nothing to compute: the store already holds the results of " in text
    assert _times(tmp_path / "out") == before


def test_a_file_that_cannot_be_read_is_reported_again_and_nothing_is_done_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for step in (1, 2):
        _save_weights(tmp_path / "runs" / f"step_{step}.pt")
    (tmp_path / "runs" / "step_3.pt").write_bytes(bytes(500))
    arguments = ["analyze", "runs", "--out", "out", "--no-flow", "--analyzers", "weight_spectra"]
    assert run(arguments) == 3
    capsys.readouterr()
    before = _times(tmp_path / "out")
    assert run(arguments) == 3
    text = capsys.readouterr().out
    assert "1 problem:\n  step_3.pt: begins with zeros" in text and "The report is up to date." in text
    assert _times(tmp_path / "out") == before
    _save_weights(tmp_path / "runs" / "step_3.pt")
    assert run(arguments) == 0


def test_a_run_without_its_base_is_tried_again(tmp_path: Path) -> None:
    computed, written = Computed(1, 0, 0, (), 0.1), Written(tmp_path, tmp_path, ())
    for lacks_base in (True, False):
        outcome = Outcome(Ingested(1, 0, 0, (), ("a",), lacks_base=lacks_base), computed, written)
        assert outcome.is_settled is not lacks_base


def _save_weights(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.save({"layer.weight": torch.randn(8, 8)}, path)


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".lock"}


def test_a_store_that_another_writes_is_reported(analysed: AnalysisRequest) -> None:
    with writing(analysed.store_path), pytest.raises(StoreBusy):
        unchanged(analysed)


def test_a_scheduled_run_with_nothing_to_add_leaves_the_report_alone(analysed: AnalysisRequest) -> None:
    from flows.nightly import nightly

    before = _times(Path(analysed.out))
    state = nightly.fn(analysed.model_dump(mode="json"))
    assert state.is_completed() and state.name == "Unchanged" and "report.html" in str(state.message)
    assert _times(Path(analysed.out)) == before


def test_an_export_of_the_report_is_no_change(analysed: AnalysisRequest) -> None:
    out = Path(analysed.out)
    for name in ("report.json.gz", "tables/weight_spectra.csv"):
        _new(out / name)
    assert unchanged(analysed) is not None


@pytest.mark.parametrize("out", [".", "a"])
def test_checkpoints_in_the_folder_of_the_report_count_as_inputs(tmp_path: Path, out: str) -> None:
    """Catches a report that stays as it is because it lies where the checkpoints are."""
    runs = tmp_path / "runs"
    write_run(runs / "a", 1)
    request = AnalysisRequest(runs=str(runs), out=str(runs / out))
    before = inputs_of(request)
    remember(request, before, DONE, Store.create(request.store_path))
    assert unchanged(request) is not None
    shutil.copytree(runs / "a" / "checkpoint-0", runs / "a" / "checkpoint-10")
    assert unchanged(request) is None
