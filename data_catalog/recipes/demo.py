"""The demo's archive: the grokking run and the language model's runs, trained side by side in two processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from data_catalog.recipes import grokking, language_model


def make(
    out: Path,
    say: Callable[[str], None],
    grokking_steps: int = 3500,
    modulus: int = 97,
    pretrain_steps: int = 400,
    tune_steps: int = 120,
) -> None:
    """Writes `grokking/`, `pretrain/` and `finetune/{base,full,lora-r1,lora-r16}` below `out`."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        lines: Any = manager.Queue()
        jobs = [
            pool.submit(_grokking, out, lines, modulus, grokking_steps),
            pool.submit(_language_model, out, lines, pretrain_steps, tune_steps),
        ]
        for job in jobs:
            job.add_done_callback(lambda _: lines.put(None))
        ended = 0
        while ended < len(jobs):
            line = lines.get()
            if line is None:
                ended += 1
            else:
                say(line)
        for job in jobs:
            job.result()


def _grokking(out: Path, lines: Any, modulus: int, steps: int) -> None:
    grokking.make(out, lines.put, modulus=modulus, steps=steps)


def _language_model(out: Path, lines: Any, pretrain_steps: int, tune_steps: int) -> None:
    base = language_model.pretrain(out, lines.put, pretrain_steps, every=max(1, pretrain_steps // 10))
    tuned, every = base.parent, max(1, tune_steps // 6)
    language_model.tune_in_full(tuned, base, lines.put, steps=tune_steps, every=every)
    language_model.tune_with_lora(tuned, base, lines.put, rank=1, lr=8e-3, steps=tune_steps, every=every)
    language_model.tune_with_lora(tuned, base, lines.put, rank=16, lr=4e-3, steps=tune_steps, every=every)
