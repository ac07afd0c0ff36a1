"""The catalog: entries are validated, variables expanded, names found, and the schema is the model's."""

from __future__ import annotations

from pathlib import Path

import pytest

import data_catalog
from data_catalog import CatalogError
from data_catalog.entry import expand, read_entry
from data_catalog.schema import SCHEMA_FILE, schema_text


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_schema_file_is_that_of_the_model() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run: python -m data_catalog.schema"


def test_every_built_in_entry_names_a_recipe_that_can_be_called() -> None:
    import importlib
    import inspect

    for item in data_catalog.entries():
        assert item.recipe is not None
        module, _, function = item.recipe.function.partition(":")
        recipe = getattr(importlib.import_module(f"data_catalog.recipes.{module}"), function)
        inspect.signature(recipe).bind(Path(), print, **item.recipe.arguments)


def test_variables_are_expanded_with_their_defaults_everywhere() -> None:
    value = {"a": ["${X}/y", "${Z:-fallback}"], "b": 3}
    assert expand(value, {"X": "x"}) == {"a": ["x/y", "fallback"], "b": 3}
    assert expand("${Z:-fallback}", {"Z": "z"}) == "z"


def test_a_variable_without_value_or_default_is_an_error_that_names_it() -> None:
    with pytest.raises(CatalogError, match="NOWHERE"):
        expand("${NOWHERE}/archive", {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: a\ntitle: t\npath: p\nstep_patern: x\n", "step_patern"),
        ("name: a\ntitle: t\n", "path"),
        ("name: A B\ntitle: t\npath: p\n", "'A B'"),
        ("name: a\ntitle: t\npath: p\nstep_pattern: 'step'\n", "one group for the step"),
        ("- 1\n- 2\n", "list"),
        ("name: [unclosed\n", "YAML"),
    ],
)
def test_a_wrong_entry_is_refused_with_file_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path, "wrong", text)
    with pytest.raises(CatalogError, match=complaint) as error:
        read_entry(path)
    assert str(path) in str(error.value)


def test_own_entries_come_from_the_folders_of_varve_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "runs"
    archive.mkdir()
    write(tmp_path, "mine", f"name: mine\ntitle: t\npath: {archive}\nbases: {{'lora*': base}}\n")
    monkeypatch.setenv("VARVE_CATALOG", str(tmp_path))
    found = data_catalog.find("mine")
    assert found is not None and found.bases == {"lora*": "base"}
    assert data_catalog.find(archive) == found
    assert data_catalog.find(tmp_path) is None


def test_two_entries_of_one_name_in_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("one", "two"):
        write(tmp_path, file, "name: same\ntitle: t\npath: p\n")
    monkeypatch.setenv("VARVE_CATALOG", str(tmp_path))
    with pytest.raises(CatalogError, match="same"):
        data_catalog.entries()


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CatalogError, match="did you mean 'grokking'"):
        data_catalog.entry("groking")


def test_a_recipe_with_a_missing_need_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = "recipe: {function: 'demo:make', minutes: 1, needs: [no_such_package_here]}"
    write(tmp_path, "needy", f"name: needy\ntitle: t\npath: p\n{recipe}\n")
    monkeypatch.setenv("VARVE_CATALOG", str(tmp_path))
    with pytest.raises(CatalogError, match="no_such_package_here"):
        data_catalog.make("needy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_argument_of_the_recipe_can_be_given_and_a_wrong_one_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Path, dict[str, object]]] = []

    def recipe(out: Path, say: object, steps: int = 5, seeds: tuple[int, ...] = (0,)) -> None:
        made.append((out, {"steps": steps, "seeds": seeds}))

    monkeypatch.setattr("data_catalog.recipes.grokking_moe.make", recipe)
    monkeypatch.setattr(data_catalog, "entry", lambda name: entry_with({"steps": 3000, "seeds": [0]}))
    data_catalog.make("moe", tmp_path, arguments={"seeds": [1, 2]})
    assert made == [(tmp_path, {"steps": 3000, "seeds": [1, 2]})]
    with pytest.raises(CatalogError, match=r"takes no argument 'sedes'; did you mean 'seeds'.*it takes: steps, seeds"):
        data_catalog.make("moe", tmp_path, arguments={"sedes": [1]})


def entry_with(arguments: dict[str, object]) -> data_catalog.Entry:
    recipe = {"function": "grokking_moe:make", "arguments": arguments, "minutes": 1}
    return data_catalog.Entry.model_validate({"name": "moe", "title": "t", "path": "p", "recipe": recipe})
