"""What a catalog entry says: where a named archive lies, how to read it, and how to make it when it can be made.

One YAML file holds one entry. `${VAR}` and `${VAR:-default}` in any text are replaced from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class CatalogError(ValueError):
    """An entry is missing, malformed, or needs something that is not there; says which file and the way out."""


class Recipe(BaseModel):
    """How an archive is trained: a function of this package and its arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    function: str = Field(
        description="module:function below data_catalog.recipes, called as function(out, say, **arguments)"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function")
    needs: tuple[str, ...] = Field(default=(), description="importable packages beyond varve's own dependencies")
    minutes: float = Field(gt=0, description="approximate wall-clock minutes on two CPU cores")


class Entry(BaseModel):
    """A named archive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="the entry's name, as in `varve catalog show NAME`"
    )
    title: str = Field(description="one line for the list")
    description: str = Field(default="", description="what it contains, where it comes from, what to look at")
    path: str = Field(description="folder of the archive; relative paths start at the working directory")
    step_pattern: str | None = Field(
        default=None, description="regular expression: the step in its first group, the series in a second"
    )
    step_scale: int = Field(default=1, ge=1, description="what a step found by the pattern is multiplied by")
    run_ids: dict[str, str] = Field(
        default_factory=dict, description="run id to use instead of the folder's, by relative path"
    )
    bases: dict[str, str] = Field(default_factory=dict, description="glob on run ids → base, as a path or RUN[@STEP]")
    metrics: dict[str, str] = Field(
        default_factory=dict,
        description="glob on run ids → CSV or JSON log below the archive, as --metrics takes it",
    )
    tasks: dict[str, str] = Field(
        default_factory=dict,
        description="name, as in --task NAME → a task's YAML below the archive, or package.module:factory",
    )
    probes: dict[str, str] = Field(
        default_factory=dict,
        description="name, as in --probe NAME → a probe set's YAML below the archive, or package.module:factory",
    )
    recipe: Recipe | None = Field(default=None, description="how `varve catalog make` trains it")

    @field_validator("step_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and re.compile(pattern).groups not in (1, 2):
            raise ValueError(
                f"step_pattern {pattern!r} must have one group for the step, and may have a second one for the series"
            )
        return pattern

    @property
    def folder(self) -> Path:
        """Where the archive lies."""
        return Path(self.path).expanduser()


def expand(value: Any, environment: Mapping[str, str] | None = None) -> Any:
    """`value` with `${VAR}` and `${VAR:-default}` replaced in every text inside it.

    Raises CatalogError for a variable that is not set and has no default.
    """
    known = os.environ if environment is None else environment
    if isinstance(value, str):

        def fill(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if known.get(name):
                return known[name]
            if default is None:
                raise CatalogError(f"${{{name}}} is not set and has no default: export {name}=...")
            return default

        return _VARIABLE.sub(fill, value)
    if isinstance(value, dict):
        return {key: expand(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, known) for item in value]
    return value


def read_entry(path: Path, environment: Mapping[str, str] | None = None) -> Entry:
    """The entry in a YAML file. Raises CatalogError naming the file, the field and the value."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(data, dict):
        raise CatalogError(f"{path}: an entry must be a mapping with name, title and path, not {type(data).__name__}")
    try:
        return Entry.model_validate(expand(data, environment))
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'entry'}: {e['msg']} (got {e.get('input')!r})" for e in error.errors()
        ]
        raise CatalogError(f"{path}: " + "; ".join(lines)) from error
    except CatalogError as error:
        raise CatalogError(f"{path}: {error}") from error
