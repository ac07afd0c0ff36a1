"""`varve plan`: what an analysis would cost, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import arguments as a

if TYPE_CHECKING:
    from flows.options import AnalyzeOptions


def plan(
    runs: Annotated[
        Path | None,
        typer.Argument(metavar="[RUNS]", help="A folder of training runs, or the name of a catalog entry."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first (about 20 s), and keep it for later plans.")
    ] = False,
    paper: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Plan on paper: a transformers config.json, or a YAML of models. No weights are needed.",
        ),
    ] = None,
    checkpoints: Annotated[
        int | None,
        typer.Option("--checkpoints", metavar="N", min=1, help="With --config: number of checkpoints in a run."),
    ] = None,
    adapter_rank: Annotated[
        int | None,
        typer.Option("--adapter-rank", metavar="R", min=1, help="With --config: LoRA adapters of this rank."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="DTYPE", help="With --config: the weights' dtype.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="Only this GPU (one whose data sheet varve knows).")
    ] = None,
    workers: a.Workers = None,
    out: a.Out = Path("out"),
    store: a.Store = None,
    base: a.Base = None,
    analyzers: a.Analyzers = None,
    set_: a.Set = None,
    include: a.Include = None,
    exclude: a.Exclude = None,
    steps: a.Steps = None,
    rehash: a.Rehash = False,
    name: a.Name = None,
    step_pattern: a.StepPattern = None,
    step_scale: a.StepScale = None,
    task: a.Task = None,
    probe: a.Probe = None,
    model: a.Model = None,
    as_json: a.AsJson = False,
) -> int:
    """Estimate what an analysis would cost: units, bytes, operations, memory and time; reads headers only.

    \b
      varve plan --calibrate
      varve plan RUNS/ --steps last --analyzers weight_spectra
      varve plan RUNS/ --out out/ --json | jq .upper.phases
      varve plan --config config.json --checkpoints 154 --dtype bfloat16
      varve plan --config models.yaml --gpu h200

    What the store holds counts as done. Contents are not known before they are read: the plan assumes that every
    tensor changes between checkpoints, and also shows the cost if none does. Exit code 2 when there is nothing to
    plan, 3 when something in the archive cannot be read.
    """
    from analyzers.errors import ParameterError
    from flows import plan_text, planning
    from flows.cli.request import options_from
    from flows.console import say
    from pipeline.compute.calibration import current

    if runs is None and paper is None and not calibrate:
        raise ParameterError("nothing to plan: give a folder of RUNS, --config FILE, or --calibrate")
    if runs is not None and paper is not None:
        raise ParameterError(
            f"RUNS {runs} and --config {paper}: plan either an archive or a model on paper: give one of the two"
        )
    if paper is None and (checkpoints or adapter_rank or dtype):
        raise ParameterError("--checkpoints, --adapter-rank and --dtype describe a model on paper: give --config FILE")
    chosen = plan_text.gpus(gpu)
    if calibrate:
        measured, path = planning.calibrate(None if as_json else say)
        if runs is None and paper is None:
            say(plan_text.calibration_json(measured) if as_json else plan_text.calibration_lines(measured, path))
            return 0
    calibration = current()
    options: AnalyzeOptions = options_from(
        runs=runs or Path("paper"), out=out, store=store, base=base, analyzers=analyzers, set_=set_, workers=workers,
        include=include, exclude=exclude, steps=steps, rehash=rehash, name=name, step_pattern=step_pattern,
        step_scale=step_scale, task=task, probe=probe, model=model,
    )  # fmt: skip
    if paper is not None:
        from flows import paper_plans

        models = paper_plans.read_models(paper, checkpoints, adapter_rank, dtype)
        plans = paper_plans.plan_models(models, options, calibration)
        show = paper_plans.as_json if as_json else paper_plans.text
        say(show(plans, calibration, chosen, workers))
        return 0
    planned = planning.plan_archive(options, calibration)
    say((plan_text.as_json if as_json else plan_text.text)(planned, calibration, chosen, workers))
    return 3 if planned.problems else 0
