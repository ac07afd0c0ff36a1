"""Imports point downward only: the floors of the house, held by reading every import statement."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parent.parent
PACKAGES = ("analyzers", "data_catalog", "pipeline", "flows", "varve")

# The floor of each room, from the ground; a longer prefix wins. Rooms of one floor may not import each other,
# except that the store keeps what the archive described.
FLOORS = {
    "analyzers": 0,
    "data_catalog": 0,
    "pipeline.archive": 1,
    "pipeline.store": 1,
    "pipeline.units": 2,
    "pipeline.models": 3,
    "pipeline.compute": 4,
    "pipeline.report": 4,
    "pipeline.analysis": 5,
    "pipeline": 6,  # the facade for notebooks
    "flows.cli.words": 7,  # what the flows say, too
    "flows": 8,
    "flows.cli": 9,
    "varve": 10,  # re-exports for people; nothing of ours imports it
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


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{module}.{node.name}: {lines} lines"
        for path, module in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert long == []


def test_no_class_name_stands_twice() -> None:
    """Two classes of one name are one idea with two forms, or two ideas that a reader confuses."""
    homes: dict[str, list[str]] = {}
    for path, module in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import one another, directly or through others (Tarjan's strongly connected
    components)."""
    graph = csr_matrix(
        [[name in imported for name in imports] for imported in imports.values()],
        dtype=np.int8,
    )
    _, labels = connected_components(graph, directed=True, connection="strong")
    groups: dict[int, list[str]] = {}
    for name, label in zip(imports, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def test_no_module_imports_itself_in_a_circle() -> None:
    """Also inside functions and for types: a circle means that neither module can be understood alone."""
    known = dict.fromkeys(module for _, module in modules())
    imports: dict[str, set[str]] = {}
    for path, module in modules():
        named = {name if name in known else name.rpartition(".")[0] for _, name in imports_of(path)}
        imports[module] = {name for name in named if name in known and name != module}
    assert circles(imports) == []


def test_the_check_sees_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


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
