"""The command on names that are no text, through streams that cannot show every letter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.archive.test_text import write_safetensors


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """arch\\xefve/mod\\xe9le and arch\\xefve/模型, two steps each, with tensors named in no text."""
    root = tmp_path_factory.mktemp("text") / os.fsdecode(b"arch\xefve")
    for run in (os.fsdecode(b"mod\xe9le"), "模型"):
        for step in (1, 2):
            folder = root / run / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            write_safetensors(folder / "model.safetensors", ["layers.0.w\x00.weight", "layers.1.\ud800.weight"], step)
    return root


def varve(*words: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, env=environment, timeout=300)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_inspect_shows_and_lists_them_in_any_encoding(archive: Path, encoding: str) -> None:
    shown = varve("inspect", archive, "--parameters", "all", encoding=encoding)
    assert shown.returncode == 0, shown.stderr
    assert rb"arch\xefve/mod\xe9le" in shown.stdout and rb"layers.1.\ud800" in shown.stdout
    listed = varve("inspect", archive, "--json", encoding=encoding)
    ids = [run["id"] for run in json.loads(listed.stdout.decode(encoding))["runs"]]
    assert ids == [r"arch\xefve/mod\xe9le", r"arch\xefve/模型"]


def test_an_analysis_ends_in_a_report_and_is_found_again(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"o\xfft")
    words = ("analyze", archive, "--out", out, "--no-flow", "--analyzers", "weight_spectra,intruder_dimensions")
    first = varve(*words, encoding="ascii")
    assert first.returncode == 0, first.stderr
    again = varve(*words)
    assert again.returncode == 0 and b"Nothing to compute" in again.stdout, again.stdout
    assert b"\\xe9" in (out / "report.html").read_bytes() and (out / "report.html").read_text(encoding="utf-8")
    for document in (out / "store.zarr").rglob("zarr.json"):
        assert b"\\udce9" not in document.read_bytes()
    for name, format in (("csv", "csv"), ("r.json", "json"), ("pq", "parquet"), ("r.nc", "netcdf")):
        exported = varve("export", out / "report.zarr", "--format", format, "--out", tmp_path / name)
        assert exported.returncode == 0, exported.stderr
    assert "模型" in (tmp_path / "r.json").read_text(encoding="utf-8")
    checked = varve("verify", out / "store.zarr", encoding="cp1252")
    assert checked.returncode == 0, checked.stderr
