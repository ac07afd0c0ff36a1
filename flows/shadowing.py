"""Modules of other people that Python imports in the place of a package that we need: a `pipeline.py` or a `torch.py`
in the current folder, say."""

from __future__ import annotations

import functools
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

OUR_PACKAGES = ("analyzers", "pipeline", "flows", "data_catalog")
DEPENDENCIES = (
    "torch", "numpy", "scipy", "dask", "distributed", "zarr", "numcodecs", "xarray", "prefect", "fastapi", "sqlalchemy",
    "ml_dtypes", "safetensors", "blake3", "h5netcdf", "h5py", "pandas", "pyarrow", "matplotlib", "jinja2", "pydantic",
    "yaml", "typer", "rich", "psutil", "cryptography", "threadpoolctl", "transformers", "peft", "accelerate", "sklearn",
    "rapidfuzz",
)  # fmt: skip
"""Packages that varve imports, required and optional."""
_ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def shadowed() -> dict[str, Path]:
    """Package → what Python imports in its place. Looks once, imports nothing."""
    return find_shadows()


def find_shadows() -> dict[str, Path]:
    """As `shadowed`, looked at anew: our own packages, and those we need that the current folder has as well."""
    shadows: dict[str, Path] = {}
    for name in OUR_PACKAGES:
        place = _place(find_spec(name))
        if place is not None and place != _ROOT / name:
            shadows[name] = place
    if any(map(_is_current, sys.path)):
        elsewhere = [entry for entry in sys.path if not _is_current(entry)]
        for name in DEPENDENCIES:
            if any(Path(name).with_suffix(suffix).exists() for suffix in ("", ".py")):
                place, installed = _place(PathFinder.find_spec(name)), _place(PathFinder.find_spec(name, elsewhere))
                if place is not None and installed is not None and place != installed:
                    shadows[name] = place
    return shadows


def _place(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a module."""
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0] if folders else spec.origin or "").resolve()


def _is_current(entry: str) -> bool:
    """Whether an entry of Python's path means the current folder, as it does for `python -m` and in notebooks."""
    try:
        return not entry or Path(entry).resolve() == Path.cwd()
    except OSError:  # the current folder was deleted: nothing can be imported from it
        return False


def sentence(name: str, place: Path) -> str:
    """What is wrong, and the fix."""
    ours = f"varve's own package {name!r}, {_ROOT / name}"
    package = ours if name in OUR_PACKAGES else f"the package {name!r}, which varve needs"
    return f"{place} shadows {package}: rename or move it, or work in another folder"


def require_own_packages() -> None:
    """ImportError for the first package that something else shadows."""
    for name, place in shadowed().items():
        raise ImportError(sentence(name, place))


def put_ours_first() -> None:
    """For `varve doctor`, which has to run to tell: what the current folder has is imported no more."""
    shadowed()
    sys.path[:] = [str(_ROOT), *(entry for entry in sys.path if not _is_current(entry))]
