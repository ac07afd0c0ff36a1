"""Which analyzers there are: the built-in ones and plugins, and how a name with settings becomes an analyzer.

A plugin is any installed distribution with an entry point in the group ``varve.analyzers``. Nothing is imported
until an analyzer is asked for, and a plugin that cannot be imported costs only that plugin. A wrong setting fails at
once and names the nearest right one, or what is allowed.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, get_origin

from pydantic import BaseModel, ValidationError

from analyzers.errors import ContractError, ParameterError

if TYPE_CHECKING:  # torch costs 2 s, and the names alone do not need it
    from pydantic_core import ErrorDetails

    from analyzers.contract import Analyzer

GROUP = "varve.analyzers"
BUILT_IN = {
    "weight_spectra": "analyzers.weight_spectra:WeightSpectra",
    "intruder_dimensions": "analyzers.intruder_dimensions:IntruderDimensions",
    "pathway_metrics": "analyzers.pathway_metrics:PathwayMetrics",
    "intrinsic_dimension": "analyzers.intrinsic_dimension:IntrinsicDimension",
    "merged_spectra": "analyzers.weight_spectra:MergedSpectra",
}

Settings = dict[str, dict[str, Any]]
"""Analyzer name → its settings."""

_SEQUENCES = (list, tuple, set, frozenset, collections.abc.Sequence)


@dataclass(frozen=True)
class AnalyzerInfo:
    """An analyzer as a list shows it. `origin` is "built-in" or the distribution; `problem` says why it cannot load,
    and version and summary are then empty."""

    name: str
    origin: str
    version: int | None = None
    summary: str = ""
    problem: str = ""


@dataclass(frozen=True)
class _AnalyzerEntry:
    name: str
    target: str
    origin: str


def names() -> tuple[str, ...]:
    """Names that can be asked for, built-in ones first; imports no analyzer."""
    return tuple(_entries()[0])


def targets() -> dict[str, tuple[str, str]]:
    """Name → where it comes from ("built-in", or a distribution and its version) and its "module:class"; imports no
    analyzer."""
    return {entry.name: (entry.origin, entry.target) for entry in _entries()[0].values()}


def clashes() -> tuple[str, ...]:
    """Entry points that are not used because their name is taken, one sentence each."""
    return _entries()[1]


def available() -> dict[str, AnalyzerInfo]:
    """Every analyzer by name, with what its class says of itself, or why it cannot be loaded."""
    return {name: _describe(entry) for name, entry in _entries()[0].items()}


def load(name: str) -> type[Analyzer]:
    """The class of that name.

    Raises `ParameterError` for an unknown name (with the nearest ones), `ContractError` when what is registered under
    it cannot be imported or is no analyzer.
    """
    entries, _ = _entries()
    if name not in entries:
        raise ParameterError(f"no analyzer is called {name!r}; {nearest(name, entries)}")
    return _load(entries[name])


def nearest(wrong: str, right: Collection[str]) -> str:
    """'did you mean …?' where something is near, and otherwise all there is."""
    known = sorted(right)
    if close := get_close_matches(wrong, known, n=2, cutoff=0.6):
        return f"did you mean {' or '.join(repr(c) for c in close)}? (there are: {', '.join(known)})"
    return f"there are: {', '.join(known)}" if known else "there are none"


def parse_settings(assignments: Sequence[str], config: Mapping[str, Any] | None = None) -> Settings:
    """Settings by analyzer from ``NAME.KEY=VALUE`` strings, which override those of `config` ({name: {key: value}}).

    A value is read as JSON where it is JSON (10, 0.5, true, [1, 2]) and as a string otherwise. A key may have dots
    for nested settings. Raises `ParameterError` for a string of another form or an unknown analyzer.
    """
    known = names()
    settings: Settings = {}
    for name, values in (config or {}).items():
        if name not in known:
            raise ParameterError(f"settings for an unknown analyzer {name!r}; {nearest(name, known)}")
        if not isinstance(values, Mapping):
            raise ParameterError(f"settings of {name!r} must be a mapping of key to value, got {values!r}")
        settings[name] = _copied(values)
    for text in assignments:
        left, equals, value = text.partition("=")
        name, dot, path = left.strip().partition(".")
        if not (equals and dot and name and all(path.split("."))):
            raise ParameterError(f"a setting is written ANALYZER.KEY=VALUE, got {text!r}")
        if name not in known:
            raise ParameterError(f"{text!r}: no analyzer is called {name!r}; {nearest(name, known)}")
        place = settings.setdefault(name, {})
        *outer, last = path.split(".")
        for part in outer:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ParameterError(f"{text!r}: {part!r} is already set to {inner!r}, it has no keys")
            place = inner
        place[last] = _value(value.strip())
    return settings


def configure(name: str, settings: Mapping[str, Any] | None = None) -> Analyzer:
    """The analyzer of that name with validated settings. Raises `ParameterError` that names key, value and remedy."""
    cls = load(name)
    schema = cls.Parameters
    prepared = {key: _for_field(schema, key, value) for key, value in (settings or {}).items()}
    try:
        return cls(schema(**prepared))
    except ValidationError as error:
        raise ParameterError("; ".join(_explain(name, schema, detail) for detail in error.errors())) from error


def _entries() -> tuple[dict[str, _AnalyzerEntry], tuple[str, ...]]:
    """Name → entry, and the clashes. Built-in names win, then the distribution that sorts first: never the order in
    which the machine happens to list its packages."""
    chosen = {name: _AnalyzerEntry(name, target, "built-in") for name, target in BUILT_IN.items()}
    clashing: list[str] = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, _origin(p), p.value)):
        entry = _AnalyzerEntry(point.name, point.value, _origin(point))
        holder = chosen.setdefault(entry.name, entry)
        if holder.target != entry.target:
            clashing.append(
                f"analyzer {entry.name!r} of {entry.origin} ({entry.target}) is not used: "
                f"{holder.origin} has that name ({holder.target})"
            )
    return chosen, tuple(clashing)


def _origin(point: EntryPoint) -> str:
    if point.dist is None:
        return "unknown distribution"
    return f"{point.dist.metadata['Name']} {point.dist.version}"


def _load(entry: _AnalyzerEntry) -> type[Analyzer]:
    module, _, attribute = entry.target.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a foreign module does while it is imported: it costs that plugin only
        raise ContractError(
            f"analyzer {entry.name!r} of {entry.origin} cannot be loaded from {entry.target!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _checked(found, entry)


def _checked(found: object, entry: _AnalyzerEntry) -> type[Analyzer]:
    """`found` if it keeps the class side of the contract."""
    from analyzers.contract import Analyzer

    where = f"analyzer {entry.name!r} of {entry.origin} ({entry.target})"
    if not (isinstance(found, type) and issubclass(found, Analyzer)):
        raise ContractError(f"{where} is {found!r}, not a subclass of analyzers.contract.Analyzer")
    if inspect.isabstract(found):
        raise ContractError(f"{where} leaves abstract: {', '.join(sorted(found.__abstractmethods__))}")
    if getattr(found, "name", None) != entry.name:
        raise ContractError(f"{where} calls itself {getattr(found, 'name', None)!r}; both names must be the same")
    if type(getattr(found, "version", None)) is not int:
        raise ContractError(f"{where} needs an int `version`, it has {getattr(found, 'version', None)!r}")
    return found


def _describe(entry: _AnalyzerEntry) -> AnalyzerInfo:
    try:
        cls = _load(entry)
    except ContractError as error:
        return AnalyzerInfo(entry.name, entry.origin, problem=str(error))
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    return AnalyzerInfo(entry.name, entry.origin, cls.version, summary)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy down to nested mappings, so that an override never writes into the caller's config."""
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _for_field(schema: type[BaseModel], key: str, value: Any) -> Any:
    """For a field that is a sequence, "a,b" becomes its items and a lone value one item."""
    field = schema.model_fields.get(key)
    if field is None or (get_origin(field.annotation) or field.annotation) not in _SEQUENCES:
        return value
    if isinstance(value, str):
        return [_value(part.strip()) for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def _explain(name: str, schema: type[BaseModel], detail: ErrorDetails) -> str:
    """One sentence for one fault of a setting."""
    where = ".".join(str(part) for part in (name, *detail["loc"]))
    if detail["type"] == "extra_forbidden":
        *outer, wrong = detail["loc"]
        fields = schema.model_fields if not outer else {}
        remedy = nearest(str(wrong), sorted(fields)) if fields else "no such key"
        return f"{where}: no such setting; {remedy}"
    if detail["type"] == "missing":
        return f"{where}: is required"
    return f"{where} = {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
