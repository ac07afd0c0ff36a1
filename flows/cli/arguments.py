"""The options that several verbs share, each declared and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Argument(metavar="RUNS", help="A folder of training runs, or of one run's checkpoints.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for report.zarr and report.html.")]
Store = Annotated[Path | None, typer.Option("--store", help="The Zarr store.  [default: OUT/store.zarr]")]
Base = Annotated[
    list[str] | None,
    typer.Option(
        "--base",
        metavar="BASE",
        help="What to compare with: PATH, RUN or RUN@STEP of this archive, or RUN_GLOB=PATH for some runs; repeatable. "
        "By default, for an adapter: the catalog's map, the path in its config, a base/ beside it, the local Hugging "
        "Face cache; for a full run: the catalog's map, a base/ beside it, its own first step, which the report flags.",
    ),
]
Analyzers = Annotated[
    str | None,
    typer.Option("--analyzers", metavar="A,B", help="Which analyzers, comma-separated.  [default: all installed]"),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="ANALYZER.KEY=VALUE",
        help="A setting of an analyzer, as in intruder_dimensions.k_max=20; repeatable.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML or JSON with the same settings: analyzer, then key: value. --set takes precedence."
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Worker processes.  [default: by size of the work]")
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, such as tcp://10.0.0.1:8786."),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Only parameters whose names match; repeatable."),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Skip parameters whose names match; repeatable.")
]
Steps = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="STEPS",
        help="Step numbers and ranges (0,100,200-500), first, last, or slices over a run's checkpoints in order "
        "(::5 every fifth, -3: the last three), separated by commas.  [default: all]",
    ),
]
CacheBytes = Annotated[
    str | None,
    typer.Option("--cache-bytes", metavar="SIZE", help="Size limit of the cache beside the store, such as 20GB."),
]
Rehash = Annotated[
    bool, typer.Option("--rehash", help="Read every source file again, even if its size and time are unchanged.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the archive in run ids.  [default: the folder's name]")
]
StepPattern = Annotated[
    str | None,
    typer.Option(
        "--step-pattern",
        metavar="REGEX",
        help="Finds the step in a checkpoint's name, in its first group or the one called step; a second group, or the "
        "one called series, tells series in one folder apart: '(?P<series>.+)_(?P<step>[0-9]+)'.",
    ),
]
StepScale = Annotated[
    int | None, typer.Option("--step-scale", metavar="N", help="Multiplies the steps that the pattern finds.", min=1)
]
Task = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="FILE",
        help="A task for intrinsic_dimension: a YAML file (with a separator or a suffix: task.yaml, ./task), "
        "package.module:factory, or a name: of the catalog entry's tasks, or digits, which is built in; repeatable.",
    ),
]
Probe = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        metavar="FILE",
        help="A probe set for pathway_metrics: a YAML file, package.module:factory, or a name of the catalog entry's "
        "probes; repeatable.",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="FILE",
        help="Loss and scores of the runs: a CSV with a column step (or epoch), numbers, and a column run where there "
        "are several (run,step,val_loss), an export of Weights & Biases or TensorBoard, or a log in JSON. Or one file "
        "for some runs, RUN_GLOB=FILE, as in seed1*=seed1.csv; repeatable. The store keeps what is given until other "
        "files are given for the run; --metrics none forgets it.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:FACTORY",
        help="Builds the model of a checkpoint that has no config.json which transformers knows.",
    ),
]
Profile = Annotated[
    bool, typer.Option("--profile", help="Count where the time goes: read, decode, copy, factorize, fit, write, idle.")
]
NoFlow = Annotated[bool, typer.Option("--no-flow", help="Run as a plain library, without Prefect (starts sooner).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
