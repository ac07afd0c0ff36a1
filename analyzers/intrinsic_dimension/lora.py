"""Fresh LoRA factors on a model's linear layers, so that only they are trained: W + B A, with B = 0 at the start."""

from __future__ import annotations

import math

import torch

from analyzers.errors import ParameterError


class LowRankLinear(torch.nn.Module):
    """A frozen linear layer plus B A x. `lora_a` (r, in) is drawn as PEFT draws it, `lora_b` (out, r) is zero."""

    def __init__(self, linear: torch.nn.Linear, rank: int, draw: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        bound = 1 / math.sqrt(linear.in_features)  # kaiming_uniform with a = √5
        a = (torch.rand(rank, linear.in_features, generator=draw) * 2 - 1) * bound
        self.lora_a = torch.nn.Parameter(a)
        self.lora_b = torch.nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """W x + b + B A x."""
        return self.linear(x) + (x @ self.lora_a.T) @ self.lora_b.T


def attach(module: torch.nn.Module, rank: int, seed: int) -> tuple[str, ...]:
    """Puts factors of this rank on every `torch.nn.Linear`; returns the names of the new parameters.

    Raises `ParameterError` where the model has no such layer.
    """
    draw = torch.Generator().manual_seed(seed)
    linears = [(n, m) for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
    if not linears or linears[0][0] == "":
        raise ParameterError("lora_rank: the model has no linear layers inside it to put factors on")
    for name, linear in linears:
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, LowRankLinear(linear, min(rank, *linear.weight.shape), draw))
    return tuple(f"{name}.lora_{part}" for name, _ in linears for part in "ab")
