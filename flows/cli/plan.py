"""`varve plan`: what an analysis would cost, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyzers.errors import ParameterError
from flows.cli.options import AsJson, Words, request_of, with_options

Runs = Annotated[
    Path | None, typer.Argument(metavar="[RUNS]", help="A folder of training runs, or the name of a catalog entry.")
]
Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Measure this machine first (about 20 s), and keep it for later plans.")
]
Paper = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Plan on paper: a transformers config.json, or a YAML of models. No weights are needed.",
    ),
]
Checkpoints = Annotated[
    int | None, typer.Option("--checkpoints", metavar="N", min=1, help="With --config: number of checkpoints in a run.")
]
AdapterRank = Annotated[
    int | None, typer.Option("--adapter-rank", metavar="R", min=1, help="With --config: LoRA adapters of this rank.")
]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", help="With --config: the weights' dtype.")]
Gpu = Annotated[
    str | None, typer.Option("--gpu", metavar="NAME", help="Only this GPU (one whose data sheet varve knows).")
]


@with_options(
    "workers", "out", "store", "base", "analyzers", "settings", "include", "exclude", "steps", "rehash", "name",
    "step_pattern", "step_scale", "tasks", "probes", "model", config=False,
)  # fmt: skip
def plan(
    words: Words,
    runs: Runs = None,
    calibrate: Calibrate = False,
    paper: Paper = None,
    checkpoints: Checkpoints = None,
    adapter_rank: AdapterRank = None,
    dtype: Dtype = None,
    gpu: Gpu = None,
    as_json: AsJson = False,
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
    from flows.cli.words import plan_text
    from flows.cli.words.console import say
    from pipeline.analysis import estimating
    from pipeline.compute.calibration import current

    _check(runs, paper, calibrate, bool(checkpoints or adapter_rank or dtype))
    chosen = plan_text.gpus(gpu)
    if calibrate:
        measured, path = estimating.calibrate(None if as_json else say)
        if runs is None and paper is None:
            say(plan_text.calibration_json(measured) if as_json else plan_text.calibration_lines(measured, path))
            return 0
    calibration = current()
    request = request_of(words, runs=runs or Path("paper"))
    workers = request.workers
    if paper is not None:
        from flows.cli.words import paper_text
        from pipeline.analysis import paper_plans

        models = paper_plans.read_models(paper, checkpoints, adapter_rank, dtype)
        plans = paper_plans.plan_models(models, request, calibration)
        show = paper_text.as_json if as_json else paper_text.text
        say(show(plans, calibration, chosen, workers))
        return 0
    planned = estimating.plan_archive(request, calibration)
    say((plan_text.as_json if as_json else plan_text.text)(planned, calibration, chosen, workers))
    return 3 if planned.problems else 0


def _check(runs: Path | None, paper: Path | None, calibrate: bool, describes_paper: bool) -> None:
    """What is planned must be clear. Raises `ParameterError`."""
    if runs is None and paper is None and not calibrate:
        raise ParameterError("nothing to plan: give a folder of RUNS, --config FILE, or --calibrate")
    if runs is not None and paper is not None:
        raise ParameterError(
            f"RUNS {runs} and --config {paper}: plan either an archive or a model on paper: give one of the two"
        )
    if paper is None and describes_paper:
        raise ParameterError("--checkpoints, --adapter-rank and --dtype describe a model on paper: give --config FILE")
