"""From the command line's words to validated `AnalyzeOptions`: every wrong word fails here, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationError

from analyzers.errors import ParameterError
from flows.options import AnalyzeOptions, is_factory, parse_size, read_config


def options_from(
    *,
    runs: Path,
    out: Path,
    store: Path | None = None,
    base: Sequence[str] | None = None,
    analyzers: str | None = None,
    set_: Sequence[str] | None = None,
    config: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    steps: str | None = None,
    cache_bytes: str | None = None,
    rehash: bool = False,
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: int | None = None,
    task: Sequence[str] | None = None,
    probe: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    model: str | None = None,
    profile: bool = False,
) -> AnalyzeOptions:
    """The options, checked as far as words go. Raises `ParameterError` that names the option and the way out."""
    from analyzers import registry
    from pipeline.selection import parse_steps

    chosen = chosen_analyzers(analyzers)
    parse_steps(steps)
    if model is not None and not is_factory(model):
        raise ParameterError(f"--model {model!r}: write it as package.module:factory")
    if workers is not None and workers < 1:
        raise ParameterError(f"--workers {workers}: give at least one")
    if device not in ("auto", "cpu", "cuda"):
        raise ParameterError(f"--device {device!r}: {registry.nearest(device, ['auto', 'cpu', 'cuda'])}")
    try:
        return AnalyzeOptions(
            runs=str(runs),
            out=str(out),
            store=str(store) if store else None,
            base=tuple(base or ()),
            analyzers=chosen,
            settings=registry.parse_settings(set_ or (), read_config(config) if config else None),
            device=cast(Literal["auto", "cpu", "cuda"], device),
            workers=workers,
            scheduler=scheduler,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            steps=steps,
            cache_bytes=parse_size(cache_bytes) if cache_bytes is not None else None,
            rehash=rehash,
            name=name,
            step_pattern=step_pattern,
            step_scale=step_scale,
            tasks=tuple(task or ()),
            probes=tuple(probe or ()),
            metrics=tuple(metrics or ()),
            model=model,
            profile=profile,
        )
    except ValidationError as error:
        faults = "; ".join(f"--{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ParameterError(faults) from error


def chosen_analyzers(words: str | None) -> tuple[str, ...]:
    """The analyzers named, comma-separated; empty for all. Raises `ParameterError` with the nearest name."""
    from analyzers import registry

    known = registry.names()
    if words is not None and not words.strip(" ,"):
        raise ParameterError(f"--analyzers {words!r}: names no analyzer; known: {', '.join(known)}")
    chosen = tuple(dict.fromkeys(w.strip() for w in (words or "").split(",") if w.strip()))
    for name in chosen:
        if name not in known:
            raise ParameterError(f"--analyzers: no analyzer is called {name!r}; {registry.nearest(name, known)}")
    return chosen
