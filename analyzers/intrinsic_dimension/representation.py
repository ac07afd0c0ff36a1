"""The statistic: how many dimensions a checkpoint's activations fill, layer by layer, on a task's score examples."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension.estimators import gride, levina_bickel, participation_ratio, tied_share, two_nn
from analyzers.intrinsic_dimension.task import Data, Task
from analyzers.linalg.neighbours import distinct, nearest, repetitions
from analyzers.models import Material

_NUMBERED = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.\d+$")
BATCH = 64
NEIGHBOURS = 20
RESOLUTION = 16.0
"""In roundings of an entry (float32, relative): the same input through another kernel or batch shape moves an output by
about one, eight layers deep. Points nearer than that repeat each other, and distances closer than that are equal."""


@dataclass(frozen=True)
class Representation(Statistic):
    """Fields, by layer: `layers` names; `two_nn`, `mle`, `participation_ratio` (L,); `gride` (L, scales); `points`,
    `duplicates` (equal but for rounding, left out) and `ties` (share whose two nearest are equally far) (L,). NaN where
    the points of a layer have no such estimate: all alike, or most of the ratios ties.

    `layers`: globs on module names; none: the numbered layers of the model, or where it has none its modules with a
    weight matrix. An output (n, tokens, width) is averaged over the tokens that are there; maps are flattened.
    """

    task: Material
    layers: tuple[str, ...] = ()
    samples: int = 1000
    scales: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    name: ClassVar[str] = "representation_dimension"
    version: ClassVar[int] = 2
    scope: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False
    reads_models: ClassVar[bool] = True

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Forward passes and an n × n distance matrix for each layer."""
        return Cost(seconds=5.0, memory_bytes=2**30)

    def compute(self, unit: Unit, context: Context) -> Result:
        """Raises `Unmeasurable` where no module matches, or fewer than `NEIGHBOURS` + 1 examples are there."""
        task: Task = context.models.open(self.task)
        checkpoint = unit.only.checkpoint
        assert checkpoint is not None
        data = task.data("score")
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: self.samples].sort().values
        data = data.take(chosen).to(context.device)
        if len(data) <= NEIGHBOURS:
            raise Unmeasurable(f"{len(data)} examples are too few: each needs {NEIGHBOURS} neighbours")
        module = task.build(checkpoint, context.models, 0, False).module.to(torch.float32).to(context.device).eval()
        names = chosen_layers(module, self.layers)
        clouds = activations(module, names, data)
        names = [name for name in names if name in clouds]
        rows = [_estimates(clouds[name], self.scales) for name in names]
        fields = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        return {"layers": np.array(names), **fields}


def chosen_layers(module: torch.nn.Module, globs: Sequence[str]) -> list[str]:
    """Names of the modules to listen to, in the model's order."""
    every = [name for name, _ in module.named_modules() if name]
    if globs:
        found = [name for name in every if any(fnmatchcase(name, glob) for glob in globs)]
    else:
        found = [name for name in every if _NUMBERED.search(name)]
        if not found:
            found = [
                n for n, m in module.named_modules() if n and any(p.ndim >= 2 for p in m.parameters(recurse=False))
            ]
    if not found:
        raise Unmeasurable(f"no module's name matches {', '.join(globs) or 'a layer'}; the model has {every[:6]}")
    return found


@torch.no_grad()
def activations(module: torch.nn.Module, names: Sequence[str], data: Data) -> dict[str, torch.Tensor]:
    """(n, width) outputs of each module, float32. Modules that are not run, or give no tensor, are absent."""
    parts: dict[str, list[torch.Tensor]] = {}
    mask: torch.Tensor | None = None

    def listener(name: str) -> Callable[..., None]:
        def heard(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            tensor = output[0] if isinstance(output, tuple | list) else output
            if isinstance(tensor, torch.Tensor):
                parts.setdefault(name, []).append(_pooled(tensor, mask).to(torch.float32).cpu())

        return heard

    hooks = [module.get_submodule(name).register_forward_hook(listener(name)) for name in names]
    try:
        for index in torch.arange(len(data), device=data.targets.device).split(BATCH):
            batch = data.take(index)
            second = batch.inputs[1] if len(batch.inputs) > 1 else None
            mask = second if second is not None and second.shape == batch.inputs[0].shape else None
            module(*batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    joined = {name: torch.cat(found) for name, found in parts.items()}
    return {name: found for name, found in joined.items() if len(found) == len(data)}


def _pooled(output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if output.ndim == 3:
        if mask is None or mask.shape != output.shape[:2]:
            return output.mean(dim=1)
        weight = mask.unsqueeze(-1).to(output.dtype)
        return (output * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
    return output.flatten(1)


def _estimates(points: torch.Tensor, scales: Sequence[int]) -> dict[str, np.ndarray]:
    kept, dropped = distinct(points)
    nan = np.array(np.nan)
    found: dict[str, np.ndarray] = {
        "points": np.array(len(kept)),
        "duplicates": np.array(dropped),
        "ties": nan,
        "two_nn": nan,
        "mle": nan,
        "participation_ratio": nan,
        "gride": np.full(len(scales), np.nan),
    }
    if not bool(torch.isfinite(kept).all()) or len(kept) <= NEIGHBOURS:
        return found
    wanted = max(NEIGHBOURS, 2 * max(scales))
    distances = nearest(kept, min(wanted, len(kept) - 1))[0]
    rounding = RESOLUTION * torch.finfo(kept.dtype).eps
    repeated = repetitions(kept, distances, rounding)
    if bool(repeated.any()):
        kept = kept[~repeated]
        found |= {"points": np.array(len(kept)), "duplicates": np.array(len(points) - len(kept))}
        if len(kept) <= NEIGHBOURS:
            return found
        distances = nearest(kept, min(wanted, len(kept) - 1))[0]
    # Rounding moves each entry by itself: along the line between two points it is that of one entry.
    entry = torch.linalg.vector_norm(kept, dim=1, dtype=torch.float64) / kept.shape[1] ** 0.5
    return found | _from_distances(kept, distances.cpu().numpy(), (rounding * entry).cpu().numpy(), scales)


def _from_distances(
    kept: torch.Tensor, distances: np.ndarray, resolution: np.ndarray, scales: Sequence[int]
) -> dict[str, np.ndarray]:
    measured = {
        "two_nn": lambda: two_nn(distances, resolution),
        "mle": lambda: levina_bickel(distances[:, :NEIGHBOURS]),
        "participation_ratio": lambda: participation_ratio(kept),
    }
    estimates = {name: np.array(_or_nan(estimate)) for name, estimate in measured.items()}
    of_scales = np.full(len(scales), np.nan)
    for index, scale in enumerate(scales):
        if 2 * scale <= distances.shape[1]:
            of_scales[index] = _or_nan(functools.partial(gride, distances, scale, 2 * scale, resolution))
    return estimates | {"gride": of_scales, "ties": np.array(tied_share(distances, resolution))}


def _or_nan(estimate: Callable[[], float]) -> float:
    """A layer without an estimate leaves those of the others: NaN says so in the report."""
    try:
        return estimate()
    except Unmeasurable:
        return float("nan")
