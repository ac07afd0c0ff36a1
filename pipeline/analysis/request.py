"""What an analysis is asked to do, as one frozen, JSON-able value: the only place where its options stand.

The command's options, the keywords of `varve.analyze` and a deployment's parameters are made from these fields, and the
report keeps them. Each field's description is its help.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from analyzers.errors import ParameterError
from pipeline.archive.text import encodable_data, path_text, real_path
from pipeline.models.yaml_file import read_yaml
from pipeline.units.selection import parse_steps

if TYPE_CHECKING:
    from pipeline.units.selection import Selection

Settings = dict[str, dict[str, Any]]
"""Analyzer name → key → value, as --set and --config give them."""
DEVICES = ("auto", "cpu", "cuda")


def _option(default: Any, help_text: str, metavar: str = "", word: str = "", form: str = "") -> Any:
    """A field with its help. `word` is the command's option where it is not the field's name; `form` says how it is
    written there where the field's type does not: "argument", "path", "commas", "size", or "counted" (from 1)."""
    return Field(default, description=help_text, json_schema_extra={"metavar": metavar, "word": word, "form": form})


class AnalysisRequest(BaseModel):
    """All options of an analysis; paths are absolute, so that a schedule means the same from any folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: str = _option(..., "A folder of training runs, or of one run's checkpoints.", "RUNS", form="argument")
    out: str = _option("out", "Folder for report.zarr and report.html.", form="path")
    store: str | None = _option(None, "The Zarr store.  [default: OUT/store.zarr]", form="path")
    base: tuple[str, ...] = _option(
        (),
        "What to compare with: PATH, RUN or RUN@STEP of this archive, or RUN_GLOB=PATH for some runs; repeatable. "
        "By default, for an adapter: the catalog's map, the path in its config, a base/ beside it, the local Hugging "
        "Face cache; for a full run: the catalog's map, a base/ beside it, its own first step, which the report flags.",
        "BASE",
    )
    analyzers: tuple[str, ...] = _option(
        (), "Which analyzers, comma-separated.  [default: all installed]", "A,B", form="commas"
    )
    settings: Settings = _option(
        {}, "A setting of an analyzer, as in intruder_dimensions.k_max=20; repeatable.", "ANALYZER.KEY=VALUE", "set"
    )
    device: Literal["auto", "cpu", "cuda"] = _option("auto", "Where to compute.", "auto|cpu|cuda")
    workers: int | None = _option(None, "Worker processes.  [default: by size of the work]", "N")
    scheduler: str | None = _option(None, "A running Dask scheduler, such as tcp://10.0.0.1:8786.", "ADDRESS")
    include: tuple[str, ...] = _option((), "Only parameters whose names match; repeatable.", "GLOB")
    exclude: tuple[str, ...] = _option((), "Skip parameters whose names match; repeatable.", "GLOB")
    steps: str | None = _option(
        None,
        "Step numbers and ranges (0,100,200-500), first, last, or slices over a run's checkpoints in order (::5 every "
        "fifth, -3: the last three), separated by commas.  [default: all]",
        "STEPS",
    )
    cache_bytes: int | None = _option(
        None, "Size limit of the cache beside the store, such as 20GB.", "SIZE", form="size"
    )
    rehash: bool = _option(False, "Read every source file again, even if its size and time are unchanged.")
    name: str | None = _option(None, "Name of the archive in run ids.  [default: the folder's name]")
    step_pattern: str | None = _option(
        None,
        "Finds the step in a checkpoint's name, in its first group or the one called step; a second group, or the one "
        "called series, distinguishes series in one folder: '(?P<series>.+)_(?P<step>[0-9]+)'.",
        "REGEX",
    )
    step_scale: int | None = _option(None, "Multiplies the steps that the pattern finds.", "N", form="counted")
    tasks: tuple[str, ...] = _option(
        (),
        "A task for intrinsic_dimension: a YAML file (with a separator or a suffix: task.yaml, ./task), "
        "package.module:factory, or a name: of the catalog entry's tasks, or digits, which is built in; repeatable.",
        "FILE",
        "task",
    )
    probes: tuple[str, ...] = _option(
        (),
        "A probe set for pathway_metrics: a YAML file, package.module:factory, or a name of the catalog entry's "
        "probes; repeatable.",
        "FILE",
        "probe",
    )
    metrics: tuple[str, ...] = _option(
        (),
        "Loss and scores of the runs: a CSV with a column step (or epoch), numbers, and a column run where there are "
        "several (run,step,val_loss), an export of Weights & Biases or TensorBoard, or a log in JSON. Or one file for "
        "some runs, RUN_GLOB=FILE, as in seed1*=seed1.csv; repeatable. The store keeps what is given until other files "
        "are given for the run; --metrics none forgets it.",
        "FILE",
    )
    model: str | None = _option(
        None, "Builds the model of a checkpoint that has no config.json which transformers knows.", "MODULE:FACTORY"
    )
    profile: bool = _option(False, "Count where the time goes: read, decode, copy, factorize, fit, write, idle.")

    @classmethod
    def of(cls, **options: Any) -> AnalysisRequest:
        """The request, where a single text or path will do for a field of several. Raises `ParameterError` that names
        the option and what is wrong with it."""
        several = {name for name, field in cls.model_fields.items() if field.default == ()}
        try:
            return cls(**{name: _as_field(value, name in several) for name, value in options.items()})
        except ValidationError as error:
            raise ParameterError("; ".join(_fault(e["loc"], e["type"], e["msg"]) for e in error.errors())) from error

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

    @field_validator("analyzers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from analyzers import registry

        known = registry.names()
        for name in names:
            if name not in known:
                raise ParameterError(f"--analyzers: no analyzer is called {name!r}; {registry.nearest(name, known)}")
        return tuple(dict.fromkeys(names))

    @field_validator("steps")
    @classmethod
    def _understood(cls, value: str | None) -> str | None:
        parse_steps(value)
        return value

    @field_validator("model")
    @classmethod
    def _is_factory(cls, value: str | None) -> str | None:
        if value is not None and not is_factory(value):
            raise ParameterError(f"--model {value!r}: write it as package.module:factory")
        return value

    @field_validator("device", mode="before")
    @classmethod
    def _known_device(cls, value: Any) -> Any:
        from analyzers import registry

        if value not in DEVICES:
            raise ParameterError(f"--device {value!r}: {registry.nearest(str(value), DEVICES)}")
        return value

    @field_validator("workers")
    @classmethod
    def _at_least_one(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ParameterError(f"--workers {value}: give at least one")
        return value

    @field_validator("step_pattern")
    @classmethod
    def _is_pattern(cls, value: str | None) -> str | None:
        from pipeline.archive.steps import compile_pattern

        if value is not None:
            compile_pattern(value)
        return value

    @field_validator("step_scale", "cache_bytes")
    @classmethod
    def _not_below(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = 1 if info.field_name == "step_scale" else 0
        if value is not None and value < least:
            raise ParameterError(f"--{(info.field_name or '').replace('_', '-')} {value}: give at least {least}")
        return value

    @property
    def store_path(self) -> Path:
        """Where the store is: given, or beside the report."""
        return real_path(self.store) if self.store else self.out_path / "store.zarr"

    @property
    def out_path(self) -> Path:
        """The folder that the report goes to."""
        return real_path(self.out)

    def selection(self, runs: tuple[str, ...] | None = None) -> Selection:
        """Which part of the store is asked for, of these runs (all where None)."""
        from pipeline.units.selection import Selection

        return Selection(runs, self.include, self.exclude, parse_steps(self.steps))


def _as_field(value: Any, several: bool) -> Any:
    if several:
        if value is not None and not isinstance(value, str | Path | Iterable):
            return value  # the field's own check says what is wrong with it
        return (str(value),) if isinstance(value, str | Path) else tuple(map(str, value or ()))
    return str(value) if isinstance(value, Path) else value


def _fault(where: tuple[int | str, ...], kind: str, message: str) -> str:
    from analyzers import registry

    name = str(where[0]) if where else ""
    if kind == "extra_forbidden":
        return f"no option is called {name!r}; {registry.nearest(name, list(AnalysisRequest.model_fields))}"
    return f"--{'.'.join(map(str, where)).replace('_', '-')}: {message}"


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
