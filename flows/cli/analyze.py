"""`varve analyze`: a folder of checkpoints in, store, statistics and report out."""

from __future__ import annotations

from flows.cli.options import ALL, NoFlow, Words, request_of, with_options


@with_options(*ALL)
def analyze(words: Words, no_flow: NoFlow = False) -> int:
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
    from flows.cli.words import console
    from pipeline.analysis.unchanged import unchanged

    request = request_of(words)
    if (earlier := unchanged(request)) is not None:
        for line in console.nothing_new(earlier):
            console.say(line)
        return earlier.done.exit_code
    from flows.cli.running import run_analyze

    return run_analyze(request, with_prefect=not no_flow)
