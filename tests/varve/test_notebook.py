"""`import varve`: cheap, complete, and an analysis from end to end; modules that shadow ours are found."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import xarray as xr
from packaging.requirements import Requirement

import varve
from flows.shadowing import DEPENDENCIES
from tests.end_to_end.archives import write_run

ROOT = Path(__file__).parents[2]


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python in a folder whose modules come first, as in a notebook there."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(cwd)!r}); "
    return subprocess.run(
        [sys.executable, "-c", code + words[0], *words[1:]], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python in a folder, with this varve on its path as an installed one is."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_import_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = "sorted({'torch', 'numpy', 'xarray', 'dask', 'prefect', 'pipeline', 'flows'} & set(sys.modules))"
    assert python(f"import varve; print({heavy})", cwd=tmp_path).stdout.strip() == "[]"


def test_every_name_is_there_and_another_is_told() -> None:
    for name in varve.__all__:
        assert callable(getattr(varve, name))
    assert set(varve.__all__) <= set(dir(varve))
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        _ = varve.analyse


def test_an_analysis_in_one_call(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "one", 2)
    report = varve.analyze(tmp_path / "runs", out=tmp_path / "out", analyzers="weight_spectra", include=["*mlp*"])
    assert isinstance(report, xr.DataTree)
    assert report["weight_spectra"]["spectral_norm"].notnull().all()
    assert (tmp_path / "out" / "report.html").is_file()
    again = varve.open_report(tmp_path / "out" / "report.zarr")
    assert list(again["weight_spectra"].matrix.values) == list(report["weight_spectra"].matrix.values)


@pytest.mark.parametrize("name", ["pipeline", "flows", "analyzers", "data_catalog"])
def test_a_module_of_the_folder_that_shadows_ours_is_named_with_the_fix(tmp_path: Path, name: str) -> None:
    other = tmp_path / f"{name}.py"
    other.write_text("raise RuntimeError('not to be imported')\n")
    command = python("from varve.command import main; main()", "inspect", ".", cwd=tmp_path)
    assert command.returncode == 2
    for part in (f"{other} shadows varve's own package {name!r}", "rename or move it"):
        assert part in command.stderr, command.stderr
    library = python("import varve; varve.ingest", cwd=tmp_path)
    assert f"{other} shadows" in library.stderr
    doctor = python("from varve.command import main; main()", "doctor", cwd=tmp_path)
    assert doctor.returncode == 1 and str(other) in doctor.stdout + doctor.stderr


@pytest.mark.parametrize("file", ["torch.py", "dask/__init__.py"])
def test_a_module_of_the_folder_that_shadows_what_we_need_is_named_with_the_fix(tmp_path: Path, file: str) -> None:
    other = tmp_path / file
    other.parent.mkdir(exist_ok=True)
    other.write_text("raise RuntimeError('not to be imported')\n")
    place, name = (other, "torch") if file == "torch.py" else (other.parent, "dask")
    for arguments in (["-m", "varve", "inspect", "."], ["-c", "import varve; varve.ingest"]):
        command = run(*arguments, cwd=tmp_path)
        assert command.returncode != 0
        assert f"{place} shadows the package {name!r}, which varve needs: rename or move it" in command.stderr
    doctor = run("-m", "varve", "doctor", cwd=tmp_path)
    assert doctor.returncode == 1 and f"rename or move {place}" in doctor.stdout


def test_folders_without_modules_and_what_is_not_on_the_path_shadow_nothing(tmp_path: Path) -> None:
    for name in ("torch", "analyzers", "flows", "pipeline"):
        (tmp_path / name).mkdir()
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not to be imported')\n")
    command = run("-P", "-m", "varve", "version", cwd=tmp_path)  # -P: the current folder is not on the path
    assert command.returncode == 0, command.stderr
    (tmp_path / "numpy.py").unlink()
    command = run("-m", "varve", "version", cwd=tmp_path)
    assert command.returncode == 0, command.stderr


def test_the_list_of_packages_that_we_need_follows_the_distribution() -> None:
    """The extras that people install, and not those for tests alone."""
    wanted = set()
    for line in metadata.requires("varve") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("hf", "pathways", "tasks")):
            wanted.add(requirement.name.lower().replace("_", "-"))
    provided = metadata.packages_distributions()
    listed = {owner.lower().replace("_", "-") for name in DEPENDENCIES for owner in provided.get(name, ())}
    installed = {owner.lower().replace("_", "-") for owners in provided.values() for owner in owners}
    assert wanted & installed <= listed


def test_nothing_is_shadowed_in_an_ordinary_folder(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    command = python("from varve.command import main; main()", "version", cwd=tmp_path)
    assert command.returncode == 0 and command.stdout.startswith("varve ")
