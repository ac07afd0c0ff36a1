"""`varve analyze --profile` shows where the time went and leaves it in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr

from flows.cli.app import run
from tests.flows.cli.conftest import Analysed


def test_a_profile_is_printed_and_kept_with_the_report(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a profile that is lost between the driver and the report, and one that is there unasked."""
    words = ["analyze", str(pristine.archive), "--out", str(tmp_path), "--no-flow", "--device", "cpu"]
    words += ["--analyzers", "weight_spectra", "--steps", "first"]
    assert run([*words, "--profile"]) == 0
    said = capsys.readouterr().out
    for word in ("Where the time went", "read", "decode", "copy", "factorize", "fit", "write", "idle", "power_law"):
        assert word in said
    kept = json.loads(xr.open_datatree(tmp_path / "report.zarr").attrs["profile"])
    assert kept["statistics"]["sigma"]["units"] > 0 and kept["phases"]["write"][0] > 0
    assert run(words) == 0
    assert "Where the time went" not in capsys.readouterr().out
    assert "profile" not in xr.open_datatree(tmp_path / "report.zarr").attrs
