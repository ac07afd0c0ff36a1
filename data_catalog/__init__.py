"""What there is: named archives (one YAML each in `entries/`), and recipes that train the small demo archives.

    from data_catalog import entries, entry, make
    make("demo", Path("demo/archive"), print)

Entries of your own: put YAML files into a folder and name it in VARVE_CATALOG (several folders: the path separator).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_catalog.entry import CatalogError, Entry, Recipe, read_entry

__all__ = ["CatalogError", "Entry", "Recipe", "entries", "entry", "find", "make", "read_entry"]

_BUILT_IN = Path(__file__).parent / "entries"


def _folders() -> list[Path]:
    extra = [Path(p).expanduser() for p in os.environ.get("VARVE_CATALOG", "").split(os.pathsep) if p]
    for folder in extra:
        if not folder.is_dir():
            raise CatalogError(f"VARVE_CATALOG names {folder}, which is not a folder")
    return [_BUILT_IN, *extra]


def entries() -> list[Entry]:
    """All entries, by name. A later folder's entry of the same name replaces an earlier one's (yours the built-in)."""
    found: dict[str, Entry] = {}
    for folder in _folders():
        of_folder: dict[str, Path] = {}
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            item = read_entry(path)
            if item.name in of_folder:
                raise CatalogError(f"{path} and {of_folder[item.name]} are both named {item.name!r}: rename one")
            of_folder[item.name] = path
            found[item.name] = item
    return [found[name] for name in sorted(found)]


def entry(name: str) -> Entry:
    """The entry of this name. Raises CatalogError with the nearest names."""
    known = {item.name: item for item in entries()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise CatalogError(f"no catalog entry {name!r}; {hint}known entries: {', '.join(known)}")
    return known[name]


def find(archive: str | Path) -> Entry | None:
    """The entry that describes this archive: by its name, or because its path is this folder; else None."""
    wanted = Path(archive).expanduser()
    for item in entries():
        if item.name == str(archive) and not wanted.exists():
            return item
        if wanted.exists() and item.folder.exists() and item.folder.resolve() == wanted.resolve():
            return item
    return None


def make(
    name: str,
    out: Path | None = None,
    say: Callable[[str], None] = print,
    arguments: Mapping[str, Any] | None = None,
) -> Path:
    """Trains the archive of an entry into `out` (default: the entry's path) and returns that folder.

    Runs that are already complete there are left as they are, so an interrupted make goes on with the next run.
    `say` gets one line per noteworthy event. `arguments` stand in for those of the entry: {"seeds": [1, 2, 3]}.
    Raises CatalogError where the entry has no recipe, a need is missing, or the recipe takes no such argument.
    """
    item = entry(name)
    if item.recipe is None:
        raise CatalogError(f"the entry {name!r} describes an archive at {item.path} and has no recipe to create it")
    missing = [package for package in item.recipe.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise CatalogError(
            f"{name!r} needs {', '.join(missing)}: pip install -e '.[test]' in varve's folder (or {' '.join(missing)})"
        )
    module, _, function = item.recipe.function.partition(":")
    recipe = getattr(importlib.import_module(f"data_catalog.recipes.{module}"), function)
    taken = list(inspect.signature(recipe).parameters)[2:]
    unknown = [key for key in arguments or {} if key not in taken]
    if unknown:
        near = difflib.get_close_matches(unknown[0], taken, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise CatalogError(f"{name!r} takes no argument {unknown[0]!r}; {hint}it takes: {', '.join(taken)}")
    final = {**item.recipe.arguments, **(arguments or {})}
    try:
        inspect.signature(recipe).bind(Path(), say, **final)
    except TypeError as error:
        raise CatalogError(f"the entry {name!r} calls {item.recipe.function} with wrong arguments: {error}") from error
    target = item.folder if out is None else Path(out)
    target.mkdir(parents=True, exist_ok=True)
    recipe(target, say, **final)
    return target
