"""The command's options are made from the request: none is missing, none is spelled twice."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import typer

import varve
from analyzers.errors import ParameterError
from flows.cli.app import app
from flows.cli.options import request_of
from pipeline.analysis.request import AnalysisRequest

FIELDS = AnalysisRequest.model_fields


def _words(verb: str) -> set[str]:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]  # a group has commands
    return {parameter.name for parameter in command.params} - {"help"}


def test_analyze_offers_every_field_of_the_request() -> None:
    """Catches a field that is added to the request and reaches no user."""
    assert _words("analyze") == set(FIELDS) | {"config", "no_flow"}
    assert _words("analyse") == _words("analyze")
    assert _words("schedule") >= set(FIELDS) - {"profile"}


def test_the_library_offers_every_field_with_its_default() -> None:
    parameters = inspect.signature(varve.analyze).parameters
    assert list(parameters) == list(FIELDS)
    assert parameters["runs"].default is inspect.Parameter.empty
    assert all(parameters[name].default == FIELDS[name].default for name in FIELDS if name != "runs")


def test_every_option_has_a_help() -> None:
    assert [name for name, field in FIELDS.items() if not field.description] == []


def test_what_is_not_given_is_the_request_s_default(tmp_path: Path) -> None:
    words = dict.fromkeys(FIELDS) | {"runs": tmp_path, "config": None}
    assert request_of(words) == AnalysisRequest.of(runs=tmp_path)


@pytest.mark.parametrize("name", ["includes", "worker", "colour"])
def test_an_unknown_keyword_names_the_nearest(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=f"no option is called '{name}'"):
        varve.analyze(tmp_path, tmp_path / "out", **{name: 1})


def test_a_single_text_will_do_for_several(tmp_path: Path) -> None:
    request = AnalysisRequest.of(runs=tmp_path, include="*mlp*", base=tmp_path / "base")
    assert (request.include, request.base) == (("*mlp*",), (str(tmp_path / "base"),))
