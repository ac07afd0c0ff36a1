"""One small archive, analysed once, for the tests of all verbs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import pipeline.report
from flows.cli.app import run
from tests.end_to_end.archives import write_adapter, write_run


@dataclass(frozen=True)
class Analysed:
    """An archive and what `varve analyze` made of it."""

    archive: Path
    out: Path

    def again(self, *more: str) -> int:
        return run(["analyze", str(self.archive), "--out", str(self.out), "--no-flow", "--device", "cpu", *more])


def _blank_page(tree: object, path: Path) -> Path:
    path.write_text("<html></html>")
    return path


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's figures take seconds and have tests of their own; what is written where is what counts here."""
    monkeypatch.setattr(pipeline.report, "write_html", _blank_page)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    """Read only: tests that change something use `analysed`."""
    root = tmp_path_factory.mktemp("analysed")
    stage = Analysed(root / "stage/runs", root / "stage/out")
    write_run(stage.archive / "full", 3)
    write_adapter(stage.archive / "lora", 10, base="../../full/checkpoint-0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.report, "write_html", _blank_page)
        assert stage.again() == 0
    shutil.copytree(root / "stage", root / "saved")
    return Analysed(root / "saved/runs", root / "saved/out")


@pytest.fixture
def analysed(pristine: Analysed) -> Analysed:
    """A fresh copy where it was analysed (an archive of the same name elsewhere is another archive). Modification
    times are kept, so that its files count as unchanged."""
    stage = pristine.archive.parent.with_name("stage")
    shutil.rmtree(stage)
    shutil.copytree(pristine.archive.parent, stage)
    return Analysed(stage / "runs", stage / "out")
