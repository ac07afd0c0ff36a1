"""Modules and packages of other people that stand before ours: a `pipeline.py` in the current folder, say."""

from __future__ import annotations

import functools
import sys
from importlib.util import find_spec
from pathlib import Path

OUR_PACKAGES = ("analyzers", "pipeline", "flows", "data_catalog")
_ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def shadowed() -> dict[str, Path]:
    """Our package → what Python imports in its place. Looks once, imports nothing."""
    return find_shadows()


def find_shadows() -> dict[str, Path]:
    """As `shadowed`, looked at anew."""
    shadows: dict[str, Path] = {}
    for name in OUR_PACKAGES:
        spec = find_spec(name)
        if spec is None:
            continue
        folders = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        place = folders[0] if folders else Path(spec.origin or "").resolve()
        if place != _ROOT / name:
            shadows[name] = place
    return shadows


def sentence(name: str, place: Path) -> str:
    """What is wrong, and the fix."""
    return f"{place} shadows varve's own package {name!r}, {_ROOT / name}: rename or move it, or work in another folder"


def require_own_packages() -> None:
    """ImportError for the first of our packages that another one shadows."""
    for name, place in shadowed().items():
        raise ImportError(sentence(name, place))


def put_ours_first() -> None:
    """For `varve doctor`, which has to run to tell: the modules that shadow ours are imported no more."""
    shadowed()
    sys.path.insert(0, str(_ROOT))
