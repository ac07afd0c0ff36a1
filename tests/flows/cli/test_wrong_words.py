"""Options that leave nothing to do, or name what cannot be, end with exit code 2 and a sentence, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli.app import run
from tests.flows.cli.conftest import Analysed


@pytest.mark.parametrize("words", [["--include", "zzz*"], ["--exclude", "*"]])
def test_globs_that_leave_no_matrix_are_refused_with_what_there_is(
    analysed: Analysed, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert analysed.again(*words) == 2
    said = capsys.readouterr().err
    assert f"{words[0]} {words[1]!r}: no matrix remains" in said and "layers.0.mlp.up_proj" in said


def test_a_glob_on_a_tensor_s_name_leaves_its_matrix(analysed: Analysed) -> None:
    assert analysed.again("--analyzers", "weight_spectra", "--include", "*up_proj.weight") == 0


def test_a_file_where_the_output_folder_should_be_is_named(
    analysed: Analysed, capsys: pytest.CaptureFixture[str]
) -> None:
    file = analysed.out.with_name("a_file")
    file.touch()
    assert run(["analyze", str(analysed.archive), "--no-flow", "--out", str(file)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said and "--out" in said


def test_a_scheduler_without_a_port_is_refused_at_once(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysed.again("--scheduler", "garbage") == 2
    said = capsys.readouterr().err
    assert "'garbage'" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("word", "said"),
    [("sedes=[1]", "did you mean 'seeds'"), ("seeds", "KEY=VALUE"), ("seeds=[1", "not a YAML value")],
)
def test_a_wrong_argument_of_a_recipe_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    assert run(["catalog", "make", "grokking-moe", "--out", str(tmp_path / "moe"), "--set", word]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "moe").exists()
