"""Grokking: (a + b) mod p by a one-layer transformer, memorised early and understood late (2201.02177, 2301.05217)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from data_catalog.recipes.saving import Log, complete, write_checkpoint
from data_catalog.recipes.transformer import Shape, Transformer


def addition_table(modulus: int, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs: tokens (p², 3) as (a, b, "="), answers (p²,), and which pairs are for training (bool)."""
    a, b = torch.meshgrid(torch.arange(modulus), torch.arange(modulus), indexing="ij")
    tokens = torch.stack([a.flatten(), b.flatten(), torch.full((modulus**2,), modulus)], dim=1)
    order = torch.randperm(modulus**2, generator=torch.Generator().manual_seed(seed))
    train = torch.zeros(modulus**2, dtype=torch.bool)
    train[order[: int(fraction * modulus**2)]] = True
    return tokens, (a + b).flatten() % modulus, train


def saving_steps(steps: int, count: int = 16) -> list[int]:
    """Evenly spaced steps from 0 to the last, and step 50 and 100 for the early part."""
    every = max(1, steps // (count - 3))
    return sorted({0, min(50, steps), min(100, steps), *range(0, steps + 1, every), steps})


def make(
    out: Path,
    say: Callable[[str], None],
    modulus: int = 97,
    steps: int = 3500,
    width: int = 128,
    fraction: float = 0.3,
    batch: int = 512,
    seed: int = 0,
) -> None:
    """Writes the run `grokking` below `out`: AdamW, lr 2e-3, weight decay 1, betas (.9, .98)."""

    def train(folder: Path) -> None:
        torch.manual_seed(seed)
        torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
        tokens, answers, in_train = addition_table(modulus, fraction, seed)
        shape = Shape(modulus + 1, 3, width=width, hidden=4 * width, norm=False, causal=False)
        model = Transformer(shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1.0, betas=(0.9, 0.98))
        x, y = tokens[in_train], answers[in_train]
        draw = torch.Generator().manual_seed(seed + 1)
        log: Log = []
        save_at = saving_steps(steps)
        for step in range(steps + 1):
            if step in save_at:
                log.append(_evaluate(model, tokens, answers, in_train, step))
                write_checkpoint(folder / f"checkpoint-{step}", model.state_dict(), step, log, config=shape.config())
                say(
                    "grokking: step {step}: train accuracy {train_accuracy:.3f}, test {eval_accuracy:.3f}".format(
                        **log[-1]
                    )
                )
            if step == steps:
                break
            chosen = torch.randint(len(x), (batch,), generator=draw)
            loss = functional.cross_entropy(model(x[chosen])[:, -1], y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    complete(out / "grokking", say, train)


@torch.no_grad()
def _evaluate(
    model: Transformer, tokens: torch.Tensor, answers: torch.Tensor, in_train: torch.Tensor, step: int
) -> dict[str, float]:
    """Loss and accuracy on the training pairs and on the others."""
    row: dict[str, float] = {"step": step}
    for name, rows in (("train", in_train), ("eval", ~in_train)):
        logits = model(tokens[rows])[:, -1]
        row[f"{name}_loss"] = functional.cross_entropy(logits, answers[rows]).item()
        row[f"{name}_accuracy"] = (logits.argmax(-1) == answers[rows]).double().mean().item()
    return row
