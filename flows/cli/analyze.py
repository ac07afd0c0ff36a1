"""`varve analyze`: a folder of checkpoints in, store, statistics and report out."""

from __future__ import annotations

from pathlib import Path

from flows.cli import arguments as a


def analyze(
    runs: a.Runs,
    out: a.Out = Path("out"),
    base: a.Base = None,
    analyzers: a.Analyzers = None,
    set_: a.Set = None,
    config: a.Config = None,
    device: a.Device = "auto",
    workers: a.Workers = None,
    scheduler: a.Scheduler = None,
    store: a.Store = None,
    include: a.Include = None,
    exclude: a.Exclude = None,
    steps: a.Steps = None,
    cache_bytes: a.CacheBytes = None,
    rehash: a.Rehash = False,
    name: a.Name = None,
    step_pattern: a.StepPattern = None,
    step_scale: a.StepScale = None,
    task: a.Task = None,
    probe: a.Probe = None,
    metrics: a.Metrics = None,
    model: a.Model = None,
    profile: a.Profile = False,
    no_flow: a.NoFlow = False,
) -> int:
    """Analyse a folder of training checkpoints: ingest, compute what is missing, write the report. (alias: analyse)

    \b
      varve analyze RUNS/ --out out/
      varve analyze RUNS/ --out out/ --base base_model/ --analyzers intruder_dimensions
      varve analyze RUNS/ --out out/ --base "lora*=base_model/" --base "sft*=sft-1@0"
      varve analyze RUNS/ --out out/ --metrics losses.csv
      varve analyze RUNS/ --out out/ --steps last --include "*attn*" --set weight_spectra.alpha_null=true

    RUNS is a folder or the name of a catalog entry. Writes OUT/report.html, OUT/report.zarr (opens with
    xarray.open_datatree) and OUT/store.zarr. The same command again computes only what is new, and completes what was
    interrupted; where nothing is new it leaves the report as it is. Exit code 3 when something could not be read or
    measured: the rest is in the report, with the reason.
    """
    from flows import console
    from flows.cli.request import options_from
    from flows.unchanged import unchanged

    options = options_from(
        runs=runs, out=out, store=store, base=base, analyzers=analyzers, set_=set_, config=config, device=device,
        workers=workers, scheduler=scheduler, include=include, exclude=exclude, steps=steps, cache_bytes=cache_bytes,
        rehash=rehash, name=name, step_pattern=step_pattern, step_scale=step_scale, task=task, probe=probe, model=model,
        metrics=metrics, profile=profile,
    )  # fmt: skip
    if (earlier := unchanged(options)) is not None:
        for line in console.nothing_new(earlier):
            console.say(line)
        return earlier.done.exit_code
    from flows.cli.running import run_analyze

    return run_analyze(options, with_prefect=not no_flow)
