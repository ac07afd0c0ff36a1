"""What the user asked `varve analyze` or `varve schedule` for, as one validated, JSON-able value.

The command line makes it, Prefect deployments carry it as their parameter, and the result is stored with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from analyzers.errors import ParameterError
from pipeline.archive.text import encodable_data, path_text, real_path
from pipeline.models.yaml_file import read_yaml

Settings = dict[str, dict[str, Any]]
"""Analyzer name → key → value, as --set and --config give them."""


class AnalyzeOptions(BaseModel):
    """All options of an analysis; paths are absolute, so that a schedule means the same from any folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: str
    out: str
    store: str | None = None
    base: tuple[str, ...] = ()
    analyzers: tuple[str, ...] = ()
    settings: Settings = {}
    tasks: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    model: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None
    scheduler: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    steps: str | None = None
    cache_bytes: int | None = None
    rehash: bool = False
    profile: bool = False
    name: str | None = None
    step_pattern: str | None = None
    step_scale: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _text(cls, values: Any) -> Any:
        """Paths and names are bytes; Prefect and the store keep text."""
        return encodable_data(values)

    @field_validator("out", "store")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return _absolute_path(Path(value)) if value is not None else None

    @field_validator("runs")
    @classmethod
    def _absolute_or_entry(cls, value: str) -> str:
        path = Path(value).expanduser()
        may_be_entry = path.name == value and not real_path(path).exists()  # a name of the catalog
        return value if may_be_entry else _absolute_path(path)

    @field_validator("tasks", "probes")
    @classmethod
    def _absolute_or_named(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """A name and a "package.module:factory" stay, a file's path becomes absolute."""
        return tuple(v if is_name(v) or is_factory(v) else _absolute_path(Path(v)) for v in values)

    @field_validator("metrics")
    @classmethod
    def _absolute_files(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """FILE and RUN_GLOB=FILE with absolute paths."""
        from pipeline.archive.metrics_csv import NONE, files_of

        files = [(glob, _absolute_path(path)) for glob, path in files_of(values)]
        none = (NONE,) if NONE in values else ()
        return (*none, *(text if glob is None else f"{glob}={text}" for glob, text in files))

    @property
    def store_path(self) -> Path:
        """Where the store is: given, or beside the report."""
        return real_path(self.store) if self.store else self.out_path / "store.zarr"

    @property
    def out_path(self) -> Path:
        """The folder that the report goes to."""
        return real_path(self.out)


def _absolute_path(path: Path) -> str:
    """The path from the root, as text and without "..", which leads past a link to the folder that holds its target."""
    whole = path.expanduser().absolute()
    if ".." in whole.parts:
        last = max(i for i, part in enumerate(whole.parts) if part == "..")
        whole = Path(os.path.realpath(real_path(Path(*whole.parts[: last + 1])))).joinpath(*whole.parts[last + 1 :])
    return path_text(whole)


def is_name(text: str) -> bool:
    """Whether this names a task or probe set (of the catalog's entry, or one that ships) and not a file: it has neither
    a separator nor a suffix."""
    return (
        bool(text) and not (set(text) & {"/", "\\", ":", "~"}) and Path(text).suffix == "" and text not in (".", "..")
    )


def is_factory(text: str) -> bool:
    """Whether this is "package.module:factory" and not a file."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def parse_size(text: str) -> int:
    """Bytes of '2GB', '500 MB', '1.5GiB', '4096'. Raises `ParameterError`."""
    units = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    units |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
    stripped = text.strip().replace("_", "")
    number = stripped.rstrip("bBkKmMgGtTiI ").strip()
    suffix = stripped[len(number) :].strip().lower()
    unit = units.get(suffix, units.get(suffix.removesuffix("b")))
    try:
        value = float(number)
    except ValueError:
        unit, value = None, 0.0
    if unit is None or value < 0 or value != value or value == float("inf"):
        raise ParameterError(f"{text!r} is not a size; write for example 2GB, 500MB or 1.5GiB")
    return int(value * unit)


def read_config(path: Path) -> Settings:
    """A YAML or JSON file that maps analyzer → key → value. Raises `ParameterError` naming what is wrong in it."""
    data = read_yaml(path, "--config")
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(v, Mapping) for v in data.values()):
        raise ParameterError(
            f"--config {path}: expected a mapping of analyzer to its settings, for example\n"
            "    intruder_dimensions:\n      epsilons: [0.3, 0.5, 0.7]"
        )
    return {str(analyzer): {str(k): v for k, v in keys.items()} for analyzer, keys in data.items()}
