"""The command's options, made from the fields of `AnalysisRequest`: each is declared and explained there, once.

@with_options("runs", "out", "steps")
def verb(words: Words, no_flow: NoFlow = False) -> int:
    request = request_of(words)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from analyzers.errors import ParameterError
from pipeline.analysis.request import AnalysisRequest, read_config

Words = Mapping[str, Any]
"""What stood on the command line, by field of the request (and `config`)."""
ALL = tuple(AnalysisRequest.model_fields)
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML or JSON with the same settings: analyzer, then key: value. --set takes precedence."
    ),
]
NoFlow = Annotated[bool, typer.Option("--no-flow", help="Run without Prefect, also where a Prefect server runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def with_options(*fields: str, config: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the command gets an option for each field, and the verb, as its argument `words`, what was given.
    With the field `settings` comes --config, unless `config` is False."""
    own = {name: _parameter(name, AnalysisRequest.model_fields[name]) for name in fields}
    if "settings" in fields and config:
        own["config"] = _keyword("config", Config, None)

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        others = [
            _keyword(name, parameter.annotation, parameter.default)
            for name, parameter in inspect.signature(verb, eval_str=True).parameters.items()
            if name != "words"
        ]

        def command(**given: Any) -> Any:
            words = {name: given.pop(name) for name in own}
            return verb(words, **given)

        parameters = [*own.values(), *others]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = verb.__doc__
        command.__name__ = verb.__name__
        return command

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """A field as typer takes it; one of several values is given several times."""
    extra: Any = field.json_schema_extra
    form, metavar = extra["form"], extra["metavar"] or None
    if form == "argument":
        argument = typer.Argument(metavar=metavar, help=field.description)
        return _keyword(name, Annotated[Path, argument], inspect.Parameter.empty)
    flags = [f"--{(extra['word'] or name).replace('_', '-')}", *(["-o"] if name == "out" else [])]
    option = typer.Option(*flags, metavar=metavar, help=field.description, min=1 if form == "counted" else None)
    kind: Any = str | None
    default = field.default or None
    if field.annotation is bool:
        kind, default = bool, False
    elif form == "path":
        kind, default = Path | None, Path(field.default) if field.default else None
    elif form in ("commas", "size"):
        default = None
    elif field.annotation == int | None:
        kind = int | None
    elif default is None and field.default is not None:  # empty: several values, or settings
        kind = list[str] | None
    return _keyword(name, Annotated[kind, option], default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def request_of(words: Words, **fixed: Any) -> AnalysisRequest:
    """The validated request. `fixed` are fields that the verb itself gives. Raises `ParameterError` that names the
    option and the way out."""
    from analyzers import registry

    given = {name: value for name, value in words.items() if value is not None} | fixed
    config = given.pop("config", None)
    if "settings" in words:
        given["settings"] = registry.parse_settings(given.get("settings", ()), read_config(config) if config else None)
    if "analyzers" in given:
        given["analyzers"] = _names(given["analyzers"])
    if "cache_bytes" in given:
        given["cache_bytes"] = parse_size(given["cache_bytes"])
    return AnalysisRequest.of(**given)


def _names(text: str) -> tuple[str, ...]:
    """The analyzers named, comma-separated."""
    from analyzers import registry

    names = tuple(w.strip() for w in text.split(",") if w.strip())
    if not names:
        raise ParameterError(f"--analyzers {text!r}: names no analyzer; known: {', '.join(registry.names())}")
    return names


def parse_size(text: str) -> int:
    """Bytes of '2GB', '500 MB', '1.5GiB', '4096'. Raises `ParameterError`."""
    from dask.utils import parse_bytes

    try:
        size = parse_bytes(text.strip()) if text.strip()[:1].isdigit() else -1
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise ParameterError(f"{text!r} is not a size; write for example 2GB, 500MB or 1.5GiB")
    return int(size)
