"""The doctor finds what is wrong, and says how to fix it."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import prefect_env, server
from flows.cli import examination as doctor
from flows.cli.app import run


def test_this_environment_has_the_versions_that_are_known_to_work() -> None:
    assert [c for c in doctor.versions() if c.state != "ok"] == []


@pytest.mark.parametrize(("name", "trap"), [("fastapi", "fails every flow"), ("sqlalchemy", "never fire")])
def test_the_version_traps_are_flagged_with_their_mend(monkeypatch: pytest.MonkeyPatch, name: str, trap: str) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "9.9.0" if n.lower() == name else real(n))
    (found,) = [c for c in doctor.versions() if c.state == "bad"]
    assert found.name == name and trap in found.found and found.fix.startswith(f'pip install "{name}')


def test_a_missing_distribution_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_zarr(name: str) -> str:
        if name == "zarr":
            raise metadata.PackageNotFoundError(name)
        return "0"

    monkeypatch.setattr(metadata, "version", without_zarr)
    assert any(c.name == "zarr" and c.found == "not installed" for c in doctor.versions())


def test_our_own_packages_are_not_shadowed_here() -> None:
    assert [c for c in doctor.shadows() if c.state == "bad"] == []


def test_a_package_of_the_same_name_before_ours_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    real = doctor.importlib.util.find_spec
    other = SimpleNamespace(submodule_search_locations=[str(tmp_path / "pipeline")])
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda n: other if n == "pipeline" else real(n))
    (found,) = [c for c in doctor.shadows() if c.state == "bad"]
    assert found.name == "package pipeline" and str(tmp_path) in found.found


def test_another_distribution_that_installs_our_names_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"flows": ["varve", "rivers"]})
    (found,) = [c for c in doctor.shadows() if c.state == "bad"]
    assert "rivers" in found.found and "uninstall rivers" in found.fix


def test_a_configured_api_that_does_not_answer_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_env, "configured_url", lambda: "http://127.0.0.1:9/api")
    monkeypatch.setattr(server, "running", lambda: None)
    found = next(c for c in doctor.prefect() if c.name == "Prefect API")
    assert found.state == "bad" and "127.0.0.1:9" in found.found and "--no-flow" in found.fix


def test_a_scheduler_that_does_not_answer_is_bad() -> None:
    (found,) = doctor.dask("tcp://127.0.0.1:9")
    assert found.state == "bad" and "tcp://127.0.0.1:9" in found.found


def test_a_scheduler_without_workers_waits_for_ever_and_is_bad() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        found = next(iter(doctor.dask(cluster.scheduler_address)))
    assert found.state == "bad" and "0 workers" in found.found


def test_a_folder_that_is_no_store_is_bad(tmp_path: Path) -> None:
    (found,) = doctor.store(tmp_path)
    assert found.state == "bad" and str(tmp_path) in found.found


def test_json_is_json_and_the_exit_code_follows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: [doctor.Check("zarr", "bad", "9.9", "pip install zarr")])
    assert run(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["checks"][0]["fix"] == "pip install zarr"
    assert run(["doctor"]) == 1
    assert "fix: pip install zarr" in capsys.readouterr().out


def test_the_doctor_starts_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "running", lambda: None)
    monkeypatch.setattr(server, "start", lambda *_: pytest.fail("started a server"))
    list(doctor.prefect())
