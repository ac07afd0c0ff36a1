"""Imports point downward only: the floors of the house, held by reading every import statement."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("analyzers", "data_catalog", "pipeline", "flows", "varve")

# The floor of each room, from the ground; a longer prefix wins. Rooms of one floor may not import each other,
# except that the store keeps what the archive described.
FLOORS = {
    "analyzers": 0,
    "data_catalog": 0,
    "pipeline.archive": 1,
    "pipeline.store": 1,
    "pipeline.models": 2,
    "pipeline.compute": 3,
    "pipeline.report": 3,
    "pipeline.analysis": 4,
    "pipeline": 5,  # the facade for notebooks
    "flows.cli.words": 6,  # what the flows say, too
    "flows": 7,
    "flows.cli": 8,
    "varve": 9,  # re-exports for people; nothing of ours imports it
}
NEIGHBOURS = {("pipeline.store", "pipeline.archive")}
FORBIDDEN = {
    "analyzers": {"zarr", "dask", "distributed", "prefect"},
    "pipeline": {"prefect"},
    "data_catalog": {"zarr", "dask", "distributed", "prefect"},
}


def room_of(module: str) -> str | None:
    """The longest room name that a dotted module lies in; None for other people's modules."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOORS:
            return ".".join(parts[:length])
    return None


def imports_of(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, also inside functions; `from a import b` gives a.b."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def violations(path: Path, module: str) -> list[str]:
    here = room_of(module)
    assert here is not None
    wrong = []
    for line, name in imports_of(path):
        there = room_of(name)
        top = module.split(".")[0]
        if name.split(".")[0] in FORBIDDEN.get(top, set()):
            wrong.append(f"{path}:{line}: {top} must not import {name}")
        if there is None or there == here or (here, there) in NEIGHBOURS:
            continue
        if FLOORS[there] >= FLOORS[here]:
            wrong.append(f"{path}:{line}: {here} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})")
    return wrong


def modules() -> list[tuple[Path, str]]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append((path, dotted.removesuffix(".__init__")))
    return found


@pytest.mark.parametrize(("path", "module"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_point_downward(path: Path, module: str) -> None:
    assert violations(path, module) == []


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from flows.cli import main\n    import zarr.storage\n")
    assert len(violations(bad, "analyzers.bad")) == 2
    assert len(violations(bad, "pipeline.store.bad")) == 1


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    long = {str(p): n for p, _ in modules() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450}
    assert long == {}


def test_analyzers_open_no_file() -> None:
    opened = []
    for path, module in modules():
        if module.startswith("analyzers"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    if ast.unparse(node.func).endswith("context.models.open"):
                        continue  # the contract's own way to a task or probe set: the worker opens it
                    if name in {"open", "read_text", "write_text", "read_bytes", "write_bytes", "memmap"}:
                        opened.append(f"{path}:{node.lineno}: {name}")
    assert opened == []
