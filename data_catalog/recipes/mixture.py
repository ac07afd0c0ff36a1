"""A small mixture of experts in plain torch: the transformer of the other recipes with routed experts for its MLP.

`build(config)` makes the model around a stored checkpoint: ``--model data_catalog.recipes.mixture:build``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from data_catalog.recipes.transformer import Attention, Shape


@dataclass(frozen=True)
class MixtureShape(Shape):
    """Sizes of a mixture: `hidden` is the width of one expert, and `chosen` of `experts` see each token."""

    experts: int = 8
    chosen: int = 2

    def config(self) -> dict[str, object]:
        """The config.json that is saved beside the weights; `build` reads it."""
        return {
            **super().config(),
            "model_type": "varve_mixture",
            "num_experts": self.experts,
            "num_experts_per_tok": self.chosen,
        }


class RouterLayer(nn.Module):
    """Chooses experts for each token: the softmax over all of them, of which the largest are kept as they are."""

    def __init__(self, shape: MixtureShape) -> None:
        super().__init__()
        self.chosen = shape.chosen
        self.weight = nn.Parameter(torch.randn(shape.experts, shape.width) * (3 * shape.width) ** -0.5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x: (tokens, width) → logits (tokens, experts), weights and int64 indices (tokens, chosen)."""
        logits = functional.linear(x, self.weight)
        weights, index = logits.softmax(-1).topk(self.chosen, dim=-1)
        return logits, weights, index


class Experts(nn.Module):
    """All experts' two linear maps with a ReLU between. up_proj: (experts, hidden, width), down_proj its mirror."""

    def __init__(self, shape: MixtureShape) -> None:
        super().__init__()
        up = torch.randn(shape.experts, shape.hidden, shape.width)
        down = torch.randn(shape.experts, shape.width, shape.hidden)
        self.up_proj = nn.Parameter(up * (3 * shape.width) ** -0.5)
        self.down_proj = nn.Parameter(down * (3 * shape.hidden) ** -0.5)

    def forward(self, x: torch.Tensor, weights: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Every expert sees every token and those not chosen count nothing: at this size quicker than sorting."""
        share = torch.zeros(len(x), len(self.up_proj), dtype=x.dtype, device=x.device).scatter(1, index, weights)
        inner = functional.relu(torch.einsum("td,ehd->teh", x, self.up_proj)) * share.unsqueeze(-1)
        return torch.einsum("teh,edh->td", inner, self.down_proj)


class Mixture(nn.Module):
    """A router and its experts. `imbalance`: the last training batch's load-balancing loss (Switch), 1 when even."""

    def __init__(self, shape: MixtureShape) -> None:
        super().__init__()
        self.gate = RouterLayer(shape)
        self.experts = Experts(shape)
        self.imbalance = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, length, width)."""
        tokens = x.flatten(0, 1)
        logits, weights, index = self.gate(tokens)
        if self.training:
            share = torch.bincount(index.flatten(), minlength=logits.shape[1]) / index.numel()
            self.imbalance = logits.shape[1] * (logits.softmax(-1).mean(0) * share).sum()
        return self.experts(tokens, weights, index).view_as(x)


class MixtureBlock(nn.Module):
    """Attention and routed experts, each added to the residual stream."""

    def __init__(self, shape: MixtureShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mixture(shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, length, width)."""
        x = x + self.self_attn(x)
        return x + self.mlp(x)


class MixtureTransformer(nn.Module):
    """Token ids (batch, length) → logits (batch, length, vocabulary); no normalisation."""

    def __init__(self, shape: MixtureShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.embed_positions = nn.Embedding(shape.context, shape.width)
        self.layers = nn.ModuleList(MixtureBlock(shape) for _ in range(shape.layers))
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        for embedding in (self.embed_tokens, self.embed_positions):
            nn.init.normal_(embedding.weight, std=shape.width**-0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: int64 (batch, length)."""
        x = self.embed_tokens(tokens) + self.embed_positions.weight[: tokens.shape[1]]
        for block in self.layers:
            x = block(x)
        return self.lm_head(x)

    def imbalance(self) -> torch.Tensor:
        """The load-balancing loss of the last training batch, summed over layers."""
        return torch.stack([m.imbalance for m in self.modules() if isinstance(m, Mixture)]).sum()


def build(config: Mapping[str, Any]) -> MixtureTransformer:
    """The model that a saved config describes."""
    return MixtureTransformer(
        MixtureShape(
            vocabulary=config["vocab_size"],
            context=config["max_position_embeddings"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            hidden=config["intermediate_size"],
            norm=False,
            causal=False,
            experts=config["num_experts"],
            chosen=config["num_experts_per_tok"],
        )
    )
