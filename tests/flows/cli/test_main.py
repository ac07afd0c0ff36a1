"""The command as a process: what is imported when, what help teaches, how errors end."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli import app as application
from flows.cli.main import first_line

VERBS = ("analyze", "analyse", "inspect", "ingest", "report", "export", "verify", "schedule", "doctor", "catalog")
HEAVY = ("torch", "prefect", "zarr", "xarray", "dask", "distributed", "matplotlib", "pandas")


def imported_after(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys\nprint('\\n<' + ' '.join(m for m in {HEAVY!r} if m in sys.modules) + '>')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("<", 1)[1].rstrip(">\n").split())


@pytest.mark.parametrize("words", [["--help"], ["analyze", "--help"], ["schedule", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    assert imported_after(f"from flows.cli.app import run\nassert run({words!r}) == 0") == set()


def test_the_first_line_comes_before_anything_but_the_standard_library() -> None:
    code = (
        "import sys; sys.argv = ['varve', 'analyze', 'RUNS']\n"
        "import builtins; real = builtins.print\n"
        "def stop(*a, **k): real(*a, flush=True); real('<' + ' '.join(sorted(m for m in sys.modules if m.split('.')[0]"
        " not in sys.stdlib_module_names and not m.startswith(('flows', '_', 'sitecustom')))) + '>'); sys.exit(0)\n"
        "builtins.print = stop\n"
        "from flows.cli.main import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, modules = done.stdout.splitlines()
    assert said.startswith("varve ") and said.endswith("analyze RUNS")
    foreign = {m for m in modules.strip("<>").split() if not m.startswith("distutils")}
    assert foreign <= set(), f"imported before the first line: {foreign}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.run([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert "varve " + ("analyze" if verb == "analyse" else verb) in said or verb == "catalog"


def test_the_settings_in_help_and_docs_exist(capsys: pytest.CaptureFixture[str]) -> None:
    from analyzers import registry

    for verb in ("analyze", "report", "schedule"):
        application.run([verb, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    found = set(re.findall(r"\b(weight_spectra|intruder_dimensions)\.(\w+)=", text))
    docs = (Path(__file__).parents[3] / "docs/cli.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL)
    found |= {(name, key) for name, keys in yaml.safe_load(block).items() for key in keys}
    assert len(found) >= 3
    for name, key in found:
        assert key in registry.load(name).Parameters.model_fields, f"{name}.{key}"


def test_the_alias_is_told_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    application.run(["--help"])
    assert "alias: analyse" in capsys.readouterr().out


def test_the_exit_codes_are_told_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    application.run(["--help"])
    said = capsys.readouterr().out
    assert all(f"{code} " in said for code in (0, 1, 2, 3, 130))


@pytest.mark.parametrize(
    "words",
    [["analize"], ["analyze"], ["analyze", "x", "--nonsense"], ["export", "x"], ["analyze", "x", "--workers", "a"]],
)
def test_wrong_usage_is_two_and_on_stderr(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert application.run(words) == 2
    captured = capfd.readouterr()
    assert captured.err and not captured.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["analyze", "RUNS", "--out", "o"], "analyze RUNS"),
        (["analyse", "RUNS"], "analyze RUNS"),
        (["doctor"], "doctor"),
        (["analyze", "--help"], None),
        (["inspect", "RUNS", "--json"], None),
        (["--help"], None),
        (["version"], None),
        ([], None),
    ],
)
def test_the_first_line_names_the_verb_and_stays_out_of_json(words: list[str], said: str | None) -> None:
    line = first_line(words)
    assert line is None if said is None else (line is not None and line.endswith(said))


def _raising(error: BaseException):
    def app(*_: object, **__: object) -> None:
        raise error

    return app


def test_an_error_of_ours_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analyzers.errors import StoreError

    monkeypatch.setattr(application, "app", _raising(StoreError("s.zarr is of version 9")))
    assert application.run([]) == 2
    assert capsys.readouterr().err == "varve: s.zarr is of version 9\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from analyzers.errors import StoreError

    monkeypatch.setattr(application, "app", _raising(StoreError("broken")))
    with pytest.raises(StoreError):
        application.run(["--debug"])


def test_a_full_disk_is_a_message_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/store.zarr")
    monkeypatch.setattr(application, "app", _raising(full))
    assert application.run([]) == 2
    assert "cannot write /data/store.zarr: No space left on device. Free some space" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "app", _raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        application.run([])


def test_ctrl_c_says_that_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(application, "app", _raising(KeyboardInterrupt()))
    assert application.run([]) == 130
    assert "the same command" in capsys.readouterr().err


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("varve")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("varve ")
