"""Grokking by a mixture of experts: (a + b) mod p with enough pairs to generalise, and a control with too few."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from torch.nn.functional import cross_entropy

from data_catalog.recipes.grokking import addition_table
from data_catalog.recipes.mixture import MixtureShape, MixtureTransformer
from data_catalog.recipes.saving import Log, complete, write_checkpoint


def make(
    out: Path,
    say: Callable[[str], None],
    modulus: int = 59,
    steps: int = 3000,
    fraction: float = 0.6,
    control_fraction: float = 0.4,
    seeds: Sequence[int] = (0,),
    probe_samples: int = 1000,
) -> None:
    """Writes the runs `generalising-SEED` and `control-SEED`, and `probe/addition.yml`, below `out`.

    Three layers of width 64, eight experts of width 64, two for each token; AdamW, lr 2e-3, weight decay 1 (routers
    too), betas (.9, .98), batch 512, load-balancing loss × 0.01.
    """
    write_probe(out / "probe", modulus, probe_samples)
    for seed in seeds:
        for name, share in (("generalising", fraction), ("control", control_fraction)):
            run = f"{name}-{seed}"
            train = functools.partial(_train, run=run, say=say, modulus=modulus, steps=steps, fraction=share, seed=seed)
            complete(out / run, say, train)


def write_probe(folder: Path, modulus: int, samples: int, seed: int = 0) -> None:
    """A probe set of pairs drawn from all of them: tokens, the answer at the last place, and as class the answer."""
    tokens, answers, _ = addition_table(modulus, 1.0, seed)
    rows = np.random.default_rng(seed).permutation(len(tokens))[:samples]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", tokens.numpy()[rows])
    np.save(folder / "answers.npy", answers.numpy()[rows])
    described = {
        "name": f"addition modulo {modulus}",
        "tokens": "tokens.npy",
        "labels": "answers.npy",
        "columns": {"class": "answers.npy"},
        "batch_size": 500,
    }
    (folder / "addition.yml").write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def _train(
    folder: Path, run: str, say: Callable[[str], None], modulus: int, steps: int, fraction: float, seed: int
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
    tokens, answers, in_train = addition_table(modulus, fraction, seed)
    shape = MixtureShape(modulus + 1, 3, width=64, layers=3, hidden=64, norm=False, causal=False)
    model = MixtureTransformer(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1.0, betas=(0.9, 0.98))
    x, y = tokens[in_train], answers[in_train]
    draw = torch.Generator().manual_seed(seed + 1)
    log: Log = []
    save_at = {0, 50, 100, *range(200, steps + 1, 200), steps}
    for step in range(steps + 1):
        if step in save_at:
            log.append(_evaluate(model, tokens, answers, in_train, step))
            write_checkpoint(folder / f"checkpoint-{step}", model.state_dict(), step, log, config=shape.config())
            row = log[-1]
            say(
                f"{run}: step {step}: train accuracy {row['train_accuracy']:.3f}, test {row['eval_accuracy']:.3f}, "
                f"loss {row['train_loss']:.4f}, {row['eval_loss']:.4f}"
            )
        if step == steps:
            break
        chosen = torch.randint(len(x), (512,), generator=draw)
        loss = cross_entropy(model(x[chosen])[:, -1], y[chosen]) + 0.01 * model.imbalance()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _evaluate(
    model: MixtureTransformer, tokens: torch.Tensor, answers: torch.Tensor, in_train: torch.Tensor, step: int
) -> dict[str, float]:
    """Loss and accuracy on the training pairs and on the others."""
    model.eval()
    row: dict[str, float] = {"step": step}
    for name, rows in (("train", in_train), ("eval", ~in_train)):
        logits = model(tokens[rows])[:, -1]
        row[f"{name}_loss"] = cross_entropy(logits, answers[rows]).item()
        row[f"{name}_accuracy"] = (logits.argmax(-1) == answers[rows]).double().mean().item()
    model.train()
    return row
