"""Small nets whose shape the parameters tell: chains of convolutions and linear layers (MLP, LeNet)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping

import torch

from analyzers.errors import Unmeasurable
from analyzers.models import ParameterInfo, WholeCheckpoint

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "sigmoid": torch.sigmoid,
}


class Chain(torch.nn.Module):
    """Layers one after the other under the names that they have in the checkpoint; the activation after each but the
    last, and 2 × 2 maximum pooling after each convolution."""

    def __init__(self, layers: list[tuple[str, torch.nn.Module]], activation: str) -> None:
        super().__init__()
        self._order = [path for path, _ in layers]
        self._activation = ACTIVATIONS[activation]
        for path, layer in layers:
            parent: torch.nn.Module = self
            *outer, last = path.split(".")
            for part in outer:
                if part not in dict(parent.named_children()):
                    parent.add_module(part, torch.nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, layer)

    @property
    def together(self) -> Callable[[Mapping[str, torch.Tensor], torch.Tensor], torch.Tensor] | None:
        """The forward pass of many members at once, as batched products; None where there are convolutions."""
        linear = all(isinstance(self.get_submodule(path), torch.nn.Linear) for path in self._order)
        return self._together if linear else None

    def _together(self, parameters: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """parameters: name → (members, …); x (members, n, features) → (members, n, classes).

        Examples stand last between the layers, so that the gradients of weights come out as the weights lie.
        """
        x = x.transpose(1, 2)
        for number, path in enumerate(self._order):
            weight, bias = parameters[f"{path}.weight"], parameters.get(f"{path}.bias")
            x = torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[..., None], weight, x)
            if number < len(self._order) - 1:
                x = self._activation(x)
        return x.transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, features) or (n, channels, height, width) → (n, classes)."""
        for number, path in enumerate(self._order):
            layer = self.get_submodule(path)
            if isinstance(layer, torch.nn.Linear) and x.ndim == 4:
                x = x.flatten(1)
            x = layer(x)
            if number < len(self._order) - 1:
                x = self._activation(x)
            if isinstance(layer, torch.nn.Conv2d):
                x = torch.nn.functional.max_pool2d(x, 2)
        return x


def chain(checkpoint: WholeCheckpoint, kind: str, activation: str, random_seed: int | None = None) -> Chain:
    """The net that the parameters make, in the natural order of their names. `kind`: "mlp" or "lenet".

    random_seed: torch's own initialisation from that seed instead of the stored values. Raises `Unmeasurable` where
    the parameters make no chain: a matrix whose input is not the output before it, a parameter of another kind.
    """
    where = f"{checkpoint.run}@{checkpoint.step}"
    weights = sorted((p for p in checkpoint.parameters if len(p.shape) >= 2), key=lambda p: _natural(p.name))
    biases = {p.name: p for p in checkpoint.parameters if len(p.shape) == 1}
    weights.sort(key=lambda p: -len(p.shape))  # convolutions come first
    if not weights:
        raise Unmeasurable(f"{where}: has no weight matrices to build {kind!r} from")
    layers: list[tuple[str, torch.nn.Module]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if random_seed is None else random_seed)
        for info in weights:
            path = info.name.removesuffix(".weight")
            bias = biases.pop(f"{path}.bias", None)
            layers.append((path, _layer(info, bias, kind, where)))
    if biases:
        raise Unmeasurable(f"{where}: {kind!r} has no place for the parameter {next(iter(biases))}")
    _check_chain(weights, where, kind)
    if random_seed is None:
        for (path, layer), info in zip(layers, weights, strict=True):
            _load(layer, checkpoint, info.name, f"{path}.bias")
    return Chain(layers, activation)


def _layer(info: ParameterInfo, bias: ParameterInfo | None, kind: str, where: str) -> torch.nn.Module:
    if not info.name.endswith(".weight") or (bias is not None and bias.shape != info.shape[:1]):
        raise Unmeasurable(f"{where}: {info.name} of shape {info.shape} does not fit a layer of {kind!r}")
    if len(info.shape) == 2:
        return torch.nn.Linear(info.shape[1], info.shape[0], bias=bias is not None)
    if len(info.shape) == 4 and kind == "lenet":
        out, into, *size = info.shape
        return torch.nn.Conv2d(into, out, (size[0], size[1]), bias=bias is not None)
    raise Unmeasurable(f"{where}: {info.name} of shape {info.shape} does not fit a layer of {kind!r}")


def _check_chain(weights: list[ParameterInfo], where: str, kind: str) -> None:
    for before, after in itertools.pairwise(weights):
        turn = len(before.shape) == 4 and len(after.shape) == 2  # flattened: a multiple of the channels
        fits = after.shape[1] % before.shape[0] == 0 if turn else after.shape[1] == before.shape[0]
        if not fits:
            raise Unmeasurable(
                f"{where}: {after.name} takes {after.shape[1]} inputs, but {before.name} before it gives "
                f"{before.shape[0]}: these parameters do not form {kind!r}; name the model yourself "
                "(model: package.module:factory)"
            )


def _load(layer: torch.nn.Module, checkpoint: WholeCheckpoint, weight: str, bias: str) -> None:
    with torch.no_grad():
        layer.get_parameter("weight").copy_(checkpoint.read(weight))
        if layer.bias is not None:
            layer.get_parameter("bias").copy_(checkpoint.read(bias))


def expected_inputs(net: Chain) -> int | None:
    """How many features the first layer takes; None for a convolution."""
    first = net.get_submodule(net._order[0])
    return first.in_features if isinstance(first, torch.nn.Linear) else None


def outputs_of(net: Chain) -> int:
    """How many classes the last layer tells apart."""
    last = net.get_submodule(net._order[-1])
    assert isinstance(last, torch.nn.Linear | torch.nn.Conv2d)
    return last.out_features if isinstance(last, torch.nn.Linear) else last.out_channels


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]
