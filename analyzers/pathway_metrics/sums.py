"""Sums over tokens of what the routers did, kept on the device until the probe has run."""

from __future__ import annotations

import numpy as np
import torch

from analyzers.pathway_metrics.routers import Choice

_NONE = 255
"""Stands for no expert where ids are kept in a byte."""


class LayerSums:
    """One router's sums over a probe of `samples` samples; padding never enters.

    weight: (N, E) float64 sums of applied weights; selected: (N, E) counts; together: (E, E) tokens for which both
    experts were chosen (the diagonal: chosen at all); squared_logsumexp: its sum over tokens; per_sample: (N,) tokens.
    """

    def __init__(self, samples: int, experts: int, device: torch.device) -> None:
        self.experts = experts
        self.weight = torch.zeros(samples, experts, dtype=torch.float64, device=device)
        self.selected = torch.zeros(samples, experts, dtype=torch.int64, device=device)
        self.together = torch.zeros(experts, experts, dtype=torch.float64, device=device)
        self.squared_logsumexp = torch.zeros((), dtype=torch.float64, device=device)
        self.per_sample = torch.zeros(samples, dtype=torch.int64, device=device)
        self.tokens = 0
        self.picked: list[torch.Tensor] = []

    def add(self, choice: Choice, sample: torch.Tensor, keep: torch.Tensor | None) -> None:
        """Adds a batch. sample: int64 (T,), the sample of each token; keep: (T,) bool, None for all."""
        logits, index, weight = choice.logits, choice.index, choice.weight
        if keep is not None:
            logits, index, weight, sample = logits[keep], index[keep], weight[keep], sample[keep]
        chosen = torch.zeros(len(index), self.experts, device=index.device)
        shares = torch.zeros(len(index), self.experts, device=index.device)
        used = (weight != 0).to(chosen.dtype)
        chosen.scatter_(1, index, used)
        shares.scatter_(1, index, weight.to(shares.dtype))
        self.weight.index_add_(0, sample, shares.double())
        self.selected.index_add_(0, sample, chosen.long())
        self.together += (chosen.T @ chosen).double()
        self.per_sample.index_add_(0, sample, torch.ones_like(sample))
        self.squared_logsumexp += logits.float().logsumexp(-1).square().double().sum()
        self.tokens += len(index)
        small = torch.uint8 if self.experts <= _NONE else torch.int16
        self.picked.append(torch.where(weight != 0, index, _NONE if small == torch.uint8 else -1).to(small))

    @property
    def chosen(self) -> int:
        """k: how many experts a token may choose."""
        return self.picked[0].shape[1] if self.picked else 0

    def selection(self, rows: np.ndarray | None = None) -> np.ndarray:
        """(len(rows), k) int16 experts chosen for these tokens (positions among all that were added; None: for all),
        −1 for a choice that came to nothing: its weight was 0."""
        every = torch.cat(self.picked) if self.picked else torch.zeros(0, 1, dtype=torch.int16)
        some = every.cpu().numpy() if rows is None else every.cpu().numpy()[rows]
        found = some.astype(np.int16)
        return np.where(found == _NONE, np.int16(-1), found) if some.dtype == np.uint8 else found
