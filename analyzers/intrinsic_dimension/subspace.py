"""The trained parameters of a model as one vector, and what moves them: all of them, z through P, or z and λ (SAID)."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from analyzers.errors import ParameterError, Unmeasurable
from analyzers.linalg.projections import Projection, Stacked

_LAYER = re.compile(r"^(.*?\.(?:layers?|h|blocks?)\.\d+|\d+)(?:\.|$)")


@dataclass(frozen=True)
class Span:
    """Where a parameter stands in the vector of D entries: [start, stop). `layer` numbers SAID's layers."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    layer: int


def spans_of(module: torch.nn.Module, trained: Sequence[str] = ("*",)) -> tuple[Span, ...]:
    """The parameters that are trained, in the module's order; tied ones once. `trained`: globs on their names.

    Raises `ParameterError` where no parameter matches.
    """
    layers: dict[str, int] = {}
    spans: list[Span] = []
    at = 0
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point() or not any(fnmatchcase(name, glob) for glob in trained):
            continue
        layer = layers.setdefault(layer_of(name), len(layers))
        spans.append(Span(name, tuple(parameter.shape), at, at + parameter.numel(), layer))
        at += parameter.numel()
    if not spans:
        some = [name for name, _ in module.named_parameters()][:6]
        raise ParameterError(f"no parameter's name matches {', '.join(trained)}; there are {', '.join(some)}, …")
    return tuple(spans)


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: "encoder.layer.3", or its module's name outside of numbered layers."""
    found = _LAYER.match(name)
    return found.group(1) if found else name.rpartition(".")[0] or name


def flat(module: torch.nn.Module, spans: Sequence[Span]) -> torch.Tensor:
    """(D,) float32 copy of the parameters. Raises `Unmeasurable` where an entry is NaN or infinite."""
    parameters = dict(module.named_parameters())
    vector = torch.cat([parameters[span.name].detach().flatten().to(torch.float32) for span in spans])
    if not bool(torch.isfinite(vector).all()):
        raise Unmeasurable("the checkpoint's parameters hold NaN or infinity, so no training can start from it")
    return vector


class Steering(ABC):
    """What is trained, for E members at once: a vector v (E, k) that moves parameters by Δθ (E, D).

    `rate` is what a step of one parameter (root mean square) means for an entry of v.
    """

    size: int
    rate: float

    def start(self, members: int, device: torch.device) -> torch.Tensor:
        """v at the checkpoint: Δθ = 0."""
        return torch.zeros(members, self.size, device=device)

    @abstractmethod
    def move(self, v: torch.Tensor) -> torch.Tensor:
        """Δθ, (E, D)."""

    @abstractmethod
    def pull(self, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """The gradient in v, (E, k), of a loss whose gradient in θ is g (E, D)."""


class Everything(Steering):
    """Plain training: v = Δθ."""

    def __init__(self, n_full: int) -> None:
        self.size, self.rate = n_full, 1.0

    def move(self, v: torch.Tensor) -> torch.Tensor:
        """v itself."""
        return v

    def pull(self, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """g itself."""
        return g


class Direct(Steering):
    """DID (1804.08838): Δθ = P z."""

    def __init__(self, maps: Sequence[Projection]) -> None:
        self._maps = Stacked(maps)
        n_full, self.size = maps[0].shape
        self.rate = math.sqrt(n_full / self.size)

    def move(self, v: torch.Tensor) -> torch.Tensor:
        """P z."""
        return self._maps.up(v)

    def pull(self, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Pᵀ g."""
        return self._maps.adjoint(g)


class LayerScaled(Steering):
    """SAID (2012.13255): Δθ_i = λ_layer(i) P(z)_i, v = (z, λ) with one λ for each layer, counted inside d; λ begins
    at 1, z at 0."""

    def __init__(self, maps: Sequence[Projection], spans: Sequence[Span]) -> None:
        self._maps = Stacked(maps)
        self._spans = tuple(spans)
        self._layers = 1 + max(span.layer for span in spans)
        n_full, n_sub = maps[0].shape
        self.size = n_sub + self._layers
        self.rate = math.sqrt(n_full / n_sub)

    def start(self, members: int, device: torch.device) -> torch.Tensor:
        """z = 0, λ = 1."""
        v = torch.zeros(members, self.size, device=device)
        v[:, -self._layers :] = 1
        return v

    def move(self, v: torch.Tensor) -> torch.Tensor:
        """λ P z."""
        moved = self._maps.up(v[:, : -self._layers])
        scales = v[:, -self._layers :]
        for span in self._spans:
            moved[:, span.start : span.stop] *= scales[:, span.layer, None]
        return moved

    def pull(self, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """(Pᵀ(λ g), Σ over the layer of g P z)."""
        scales = v[:, -self._layers :]
        plain = self._maps.up(v[:, : -self._layers])
        of_scales = torch.zeros_like(scales)
        scaled = g.clone()
        for span in self._spans:
            part = slice(span.start, span.stop)
            of_scales[:, span.layer] += (g[:, part] * plain[:, part]).sum(dim=1)
            scaled[:, part] *= scales[:, span.layer, None]
        return torch.cat((self._maps.adjoint(scaled), of_scales), dim=1)
