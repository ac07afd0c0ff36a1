"""Analyzers are found by name, plugins in other packages too, and settings are checked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from analyzers import registry
from analyzers.contract import Analyzer, AnalyzerParameters, Derived, Statistic, View
from analyzers.errors import ContractError, ParameterError


class Sample(Analyzer):
    """Measures nothing, for tests.

    A second paragraph.
    """

    name, version = "sample", 3

    class Parameters(AnalyzerParameters):
        energy_fractions: tuple[float, ...] = (0.5, 0.9)
        method: Literal["mle", "moments"] = "mle"
        draws: int = Field(default=20, ge=2)

    def statistics(self) -> Sequence[Statistic]:
        return ()

    def derive(self, view: View) -> Derived:
        raise NotImplementedError


class Nameless(Sample):
    name = "somebody_else"


not_an_analyzer = 3

HERE = "tests.analyzers.test_registry"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points: a good one, broken ones of several kinds, and one that takes a built-in name."""
    points = [
        EntryPoint("sample", f"{HERE}:Sample", registry.GROUP),
        EntryPoint("absent", "no_such_module_anywhere:Thing", registry.GROUP),
        EntryPoint("number", f"{HERE}:not_an_analyzer", registry.GROUP),
        EntryPoint("misnamed", f"{HERE}:Nameless", registry.GROUP),
        EntryPoint("weight_spectra", f"{HERE}:Sample", registry.GROUP),
        EntryPoint("intruder_dimensions", registry.BUILT_IN["intruder_dimensions"], registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def test_the_built_in_analyzers_are_listed_once_although_they_are_entry_points_too() -> None:
    assert registry.names()[:2] == ("weight_spectra", "intruder_dimensions")
    assert len(registry.names()) == len(set(registry.names()))


def test_every_built_in_analyzer_loads_and_says_what_it_is() -> None:
    for name in registry.BUILT_IN:
        info = registry.available()[name]
        assert (info.origin, info.problem) == ("built-in", "")
        assert info.version and info.summary


def test_a_broken_plugin_costs_only_itself(registered: None) -> None:
    found = registry.available()
    assert found["sample"].problem == "" and found["sample"].version == 3
    assert found["sample"].summary == "Measures nothing, for tests."
    assert "no_such_module_anywhere" in found["absent"].problem
    assert "not a subclass" in found["number"].problem
    assert "somebody_else" in found["misnamed"].problem
    with pytest.raises(ContractError, match="no_such_module_anywhere"):
        registry.load("absent")


def test_a_plugin_cannot_take_a_built_in_name_and_is_told_of(registered: None) -> None:
    (clash,) = registry.clashes()
    assert "weight_spectra" in clash and HERE in clash
    assert registry.load("weight_spectra").__module__.startswith("analyzers.weight_spectra")


def test_an_unknown_analyzer_names_the_nearest(registered: None) -> None:
    with pytest.raises(ParameterError, match="did you mean 'sample'"):
        registry.load("smaple")


def test_settings_are_read_from_strings_and_override_the_file(registered: None) -> None:
    config = {"sample": {"draws": 5, "method": "moments"}}
    settings = registry.parse_settings(["sample.draws=30", "sample.energy_fractions=.5,.9,.99"], config)
    analyzer = registry.configure("sample", settings["sample"])
    assert analyzer.parameters.draws == 30
    assert analyzer.parameters.method == "moments"
    assert analyzer.parameters.energy_fractions == (0.5, 0.9, 0.99)
    assert config == {"sample": {"draws": 5, "method": "moments"}}, "the caller's config was changed"


@pytest.mark.parametrize("text", ["sample.energy_fractions=0.7", "sample.energy_fractions=[0.7]"])
def test_one_value_for_a_list_is_a_list_of_one(registered: None, text: str) -> None:
    settings = registry.parse_settings([text])
    assert registry.configure("sample", settings["sample"]).parameters.energy_fractions == (0.7,)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"energy_fraction": 1}, r"sample\.energy_fraction: no such setting; did you mean 'energy_fractions'"),
        ({"method": "mel"}, r"sample\.method = 'mel'.*'mle' or 'moments'"),
        ({"draws": 1}, r"sample\.draws = 1.*greater than or equal to 2"),
        ({"draws": "many"}, r"sample\.draws = 'many'.*integer"),
    ],
)
def test_a_wrong_setting_says_which_and_what_is_right(
    registered: None, settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(ParameterError, match=expected):
        registry.configure("sample", settings)


@pytest.mark.parametrize("text", ["draws=3", "sample.draws", "sample.=3", "=3", "sample..draws=3"])
def test_a_setting_of_another_form_is_refused(registered: None, text: str) -> None:
    with pytest.raises(ParameterError, match=r"ANALYZER\.KEY=VALUE"):
        registry.parse_settings([text])


def test_a_setting_for_an_unknown_analyzer_is_refused(registered: None) -> None:
    with pytest.raises(ParameterError, match="did you mean 'sample'"):
        registry.parse_settings(["sampel.draws=3"])
    with pytest.raises(ParameterError, match="did you mean 'sample'"):
        registry.parse_settings([], {"sampel": {}})


def test_the_names_are_known_without_importing_torch() -> None:
    code = "import sys; from analyzers import registry; registry.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


PLUGIN = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "varve-biggest"
version = "0.7"

[project.entry-points."varve.analyzers"]
biggest = "varve_biggest:Biggest"

[tool.setuptools]
py-modules = ["varve_biggest"]
""",
    "varve_biggest.py": '''
from dataclasses import dataclass
from analyzers.contract import Analyzer, Derived, Statistic, Variable

@dataclass(frozen=True)
class MaxEntry(Statistic):
    name, version, scope = "max_entry", 1, "matrix"
    def compute(self, unit, context):
        return {"max": unit.only.matrix.dense().abs().max().double().cpu().numpy()}

class Biggest(Analyzer):
    """The largest entry of every matrix."""
    name, version = "biggest", 1
    variables = (Variable("max_entry", ("run", "step", "matrix"), "largest |entry|"),)
    def statistics(self):
        return (MaxEntry(),)
    def derive(self, view):
        return Derived(view.dataset({"max_entry": view.array(MaxEntry(), "max")}, self.variables))
''',
}

USE = """
import sys
from pathlib import Path
from analyzers import registry
from pipeline.compute.run import compute
from pipeline.report.view import StoreView
from tests.pipeline.compute.stores import small_store, weights

info = registry.available()["biggest"]
assert (info.origin, info.version, info.problem) == ("varve-biggest 0.7", 1, ""), info
store = small_store(Path(sys.argv[1]))
analyzer = registry.configure("biggest")
summary = compute(store, [analyzer])
assert summary.complete and summary.measured > 0, summary
derived = analyzer.derive(StoreView(store, [analyzer])).dataset
base = derived["max_entry"].sel(run="runs/base", step=0, matrix="layers.1.mlp.up_proj")
assert float(base) == float(abs(weights(0)["model.layers.1.mlp.up_proj.weight"]).max())
"""


def test_a_plugin_in_a_package_of_its_own_is_found_computed_and_derived(tmp_path: Path) -> None:
    project, target = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    for name, text in PLUGIN.items():
        (project / name).write_text(text)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(target), str(project)], check=True, capture_output=True)
    work = tmp_path / "work"
    work.mkdir()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(root)])}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(work)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
