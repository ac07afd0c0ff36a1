"""Names on the command line: a catalog entry's tasks, those that ship, and files, never one for the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from analyzers.errors import ParameterError
from analyzers.models import Material
from pipeline.analysis.materials import named, told_apart
from pipeline.analysis.request import AnalysisRequest, is_name
from pipeline.analysis.resolve import analyzers_of
from pipeline.models.tasks import read_task

TASK = {"kind": "classification", "data": "digits", "scale": 16, "training": {"steps": 5}}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("digits", True),
        ("my-task_2", True),
        ("./digits", False),
        ("tasks/digits", False),
        ("digits.yaml", False),
        ("digits.yml", False),
        ("..", False),
        ("~", False),
        ("package.module:task", False),
    ],
)
def test_a_name_has_no_separator_and_no_suffix(text: str, name: bool) -> None:
    assert is_name(text) is name


def test_a_folder_of_the_name_does_not_hide_the_task_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    options = AnalysisRequest.of(runs=tmp_path, out=tmp_path / "o", tasks=["digits"])
    assert options.tasks == ("digits",) == named(options, "task")
    assert read_task("digits")[0] == "digits"
    folder = AnalysisRequest.of(runs=tmp_path, out=tmp_path / "o", tasks=["./digits"])
    assert folder.tasks == (str(tmp_path / "digits"),)
    with pytest.raises(ParameterError, match="is a folder, not a task"):
        read_task(folder.tasks[0])


def test_an_entry_of_the_catalog_names_tasks_below_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "runs"
    (archive / "tasks").mkdir(parents=True)
    (archive / "tasks" / "short.yaml").write_text(yaml.safe_dump({"name": "short", **TASK}))
    entry = {"name": "mine", "title": "t", "path": str(archive), "tasks": {"quick": "tasks/short.yaml", "f": "a.b:c"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(entry))
    monkeypatch.setenv("VARVE_CATALOG", str(tmp_path))
    for runs in (Path("mine"), archive):
        options = AnalysisRequest.of(runs=runs, out=tmp_path / "o", tasks=["quick", "f", "digits"])
        assert named(options, "task") == (str(archive / "tasks" / "short.yaml"), "a.b:c", "digits")
    assert read_task(named(options, "task")[0])[0] == "short"
    with pytest.raises(ParameterError, match=r"no task has this name \(known: f, quick, digits\)"):
        named(AnalysisRequest.of(runs=archive, out=tmp_path / "o", tasks=["slow"]), "task")


def test_an_unknown_name_that_is_a_file_says_how_to_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("{}")
    with pytest.raises(ParameterError, match=r"the file of this name is --task \./mine"):
        named(AnalysisRequest.of(runs=tmp_path, out=tmp_path / "o", tasks=["mine"]), "task")


def test_two_tasks_of_one_name_are_refused_before_any_work(tmp_path: Path) -> None:
    """Their results would stand in one place of the report."""
    paths = []
    for number in (1, 2):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump({"name": "one", **TASK, "reference_score": number / 2}))
    with pytest.raises(ParameterError, match=r"2\.yaml: has the same name, 'one', as .*1\.yaml \(another\)"):
        analyzers_of(["intrinsic_dimension"], tasks=[str(path) for path in paths])
    with pytest.raises(ParameterError, match=r"\(the same\); give each once"):
        analyzers_of(["intrinsic_dimension"], tasks=[str(paths[0])] * 2)


def test_recorded_tasks_of_a_name_but_of_other_data_are_told_apart() -> None:
    one, two, probe = (Material(k, "a", d * 32, "s") for k, d in (("task", "1"), ("task", "2"), ("probe", "3")))  # type: ignore[arg-type]  # kinds from a loop
    assert [m.name for m in told_apart([one, two, probe])] == ["a 111111", "a 222222", "a"]
