"""d90 of checkpoints of a fine-tuned MiniLM on SST-2, DID beside SAID, cut down to what a CPU can do.

    python tests/benchmarks/intrinsic_minilm.py ARCHIVE SST2_FOLDER TOKENIZER --out /tmp/minilm-id

ARCHIVE: a run folder with checkpoint-N. The first layer only, 12 tokens, 2000 sentences; embeddings stay frozen. A
second call with the same --out goes on where the first ended.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import yaml

import pipeline
from pipeline.api import analyzers_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("sst2", type=Path, help="folder with train.tsv and dev.tsv: sentence, tab, class")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    told = {
        "name": "sst2",
        "kind": "text_classification",
        "data": {
            name: str((given.sst2 / f"{file}.tsv").resolve()) for name, file in (("train", "train"), ("score", "dev"))
        },
        "text": "0",
        "label": "1",
        "header": False,
        "tokenizer": str(given.tokenizer.resolve()),
        "max_tokens": given.tokens,
        "layers": given.layers,
        "limit": {"train": 2000, "tune": 300, "score": 600},
        "training": {"steps": given.steps, "batch_size": 16, "lr": 0.001, "evaluations": 1},
    }
    task = given.out / "task.yaml"
    task.write_text(yaml.safe_dump(told))
    store = pipeline.ingest(given.archive, given.out / "S.zarr")
    for said in (False, True):
        settings = {
            "did": not said,
            "said": said,
            "trained": ["backbone.encoder.*", "head.*"],
            "seeds": given.seeds,
            "baseline_seeds": 3,
            "resolution": 2.1,
            "trajectory": False,
            "representation": False,
            "ensemble": 1,
        }
        chosen = analyzers_of(["intrinsic_dimension"], {"intrinsic_dimension": settings}, tasks=[str(task)])
        began = time.process_time()
        summary = pipeline.compute(store, chosen, workers=1)
        minutes = (time.process_time() - began) / 60
        print(f"{'SAID' if said else 'DID'}: {summary.measured} trials, {minutes:.1f} CPU minutes", flush=True)
        report = pipeline.assemble(store, chosen)["intrinsic_dimension"].to_dataset()
        one = report.isel(run=0, task=0, method=0).sel(level=0.9)
        for step in one["step"].values:
            at = one.sel(step=step)
            told_of = ", ".join(
                f"{t} {float(at.d_int.sel(threshold=t)):.0f} [{float(at.d_int_low.sel(threshold=t)):.0f}, "
                f"{float(at.d_int_high.sel(threshold=t)):.0f}] ({int(at.censored.sel(threshold=t).fillna(9))})"
                for t in ("local", "run", "local_corrected", "run_corrected")
            )
            scores = f"untrained {float(at.initial_score):.3f}, full {float(at.baseline_score):.3f}"
            print(f"  step {int(step)}: {scores}; {told_of}", flush=True)


if __name__ == "__main__":
    main()
