"""The statistic: a run's path through weight space as the Gram matrix of its steps' differences from the first.

G_st = ⟨w_s − w_0, w_t − w_0⟩, summed in float64 over blocks of parameters: never more than T blocks in memory, never a
float32 Gram (whose cancellation eats the small steps). Frozen parameters are told by their keys and not read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import Unmeasurable
from analyzers.models import ParameterInfo, WholeCheckpoint

BLOCK_BYTES = 256 * 2**20
"""All T blocks together, in float64."""
GRAM_BYTES = 32 * 2**20
"""Above this the groups are one: the Gram of T steps is kept once for each group."""
WHOLE = "all"
_LAYER = re.compile(r"(?:^|\.)((?:layers?|h|blocks?)\.\d+)(?:\.|$)")


@dataclass(frozen=True)
class Trajectory(Statistic):
    """Fields: `gram` (G, T, T) by group; `groups` (G,) names, first "all"; `steps` (T,); `sizes` (G,) parameters;
    `frozen` how many of them never change; `left_out` how many stand outside (absent at some step, another shape, no
    floats); `start_norm` (G,) ‖w_0‖."""

    name: ClassVar[str] = "weight_trajectory"
    version: ClassVar[int] = 1
    scope: ClassVar[Any] = "run"
    over: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False
    reads_models: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Reading every parameter once, and the products of all differences."""
        return cost_of_gram(infos)

    def compute(self, unit: Unit, context: Context) -> Result:
        """A lone checkpoint is a path that does not move. `Unmeasurable` where checkpoints share no parameter."""
        path = [o.checkpoint for o in unit.observations if o.checkpoint is not None]
        common, left_out = common_parameters(path)
        if not common:
            raise Unmeasurable("the run's checkpoints share no parameter of one shape")
        groups = _groups([info.name for info in common], len(path))
        at = {name: index for index, name in enumerate(groups)}
        known, known_count = _previous(unit, groups, common)
        count = len(path)
        gram = np.zeros((len(groups), count, count))
        norms = np.zeros(len(groups))
        sizes = np.zeros(len(groups), dtype=np.int64)
        frozen = 0
        for info in common:
            targets = {0, at[group_of(info.name)]} if len(groups) > 1 else {0}
            keys = [_key(one, info.name) for one in path]
            size = int(np.prod(info.shape, dtype=np.int64))
            square, products = products_of(path, keys, info, range(known_count))
            frozen += size if products is None else 0
            for target in targets:
                sizes[target] += size
                norms[target] += square
                if products is not None:
                    gram[target] += products
        if known is not None:
            gram[:, :known_count, :known_count] = known
        return {
            "gram": gram,
            "groups": np.array(list(groups)),
            "steps": np.array([one.step for one in path], dtype=np.int64),
            "sizes": sizes,
            "start_norm": np.sqrt(norms),
            "frozen": np.array(frozen, dtype=np.int64),
            "left_out": np.array(left_out, dtype=np.int64),
            "names": np.array([info.name for info in common]),
        }


def group_of(name: str) -> str:
    """The numbered layer of a parameter ("layers.3"), or the first part of its name that says something."""
    found = _LAYER.search(name)
    if found:
        return found.group(1)
    parts = [part for part in name.split(".") if part not in ("model", "module", "base_model", "transformer")]
    return parts[0] if parts else name


def _groups(names: Sequence[str], count: int) -> tuple[str, ...]:
    found = tuple(dict.fromkeys((WHOLE, *(group_of(name) for name in names))))
    return found if len(found) * count * count * 8 <= GRAM_BYTES else (WHOLE,)


def common_parameters(path: Sequence[WholeCheckpoint]) -> tuple[list[ParameterInfo], int]:
    """Parameters that every step has, floating and of one shape, in the first one's order; how many are not."""
    shapes = [{info.name: info.shape for info in one.parameters} for one in path]
    every = {name for of_step in shapes for name in of_step}
    kept = [
        info
        for info in path[0].parameters
        if "float" in info.dtype and all(of_step.get(info.name) == info.shape for of_step in shapes)
    ]
    return kept, len(every) - len(kept)


def _key(checkpoint: WholeCheckpoint, name: str) -> str:
    return next(info.key for info in checkpoint.parameters if info.name == name)


def _previous(unit: Unit, groups: Sequence[str], common: Sequence[ParameterInfo]) -> tuple[np.ndarray | None, int]:
    """The stored Gram over the first steps, if it is over the same groups and parameters."""
    if unit.previous is None or unit.previous_count < 2:
        return None, 0
    same = [str(n) for n in unit.previous["groups"]] == list(groups)
    same &= [str(n) for n in unit.previous["names"]] == [info.name for info in common]
    return (unit.previous["gram"], unit.previous_count) if same else (None, 0)


def cost_of_gram(infos: Sequence[MatrixInfo]) -> Cost:
    """Of the Gram matrix of these checkpoints."""
    entries = [info.shape[0] * info.shape[1] for info in infos]
    count, size = len(entries), max(entries, default=0)
    work = [costs.scan(4 * sum(entries)), costs.gemm(count, size, count), costs.python(5e-3 * count)]
    return Cost.of(work, BLOCK_BYTES, "cpu", 8 * count * count)


def products_of(
    path: Sequence[WholeCheckpoint], keys: Sequence[str], info: ParameterInfo, known: Collection[int]
) -> tuple[float, np.ndarray | None]:
    """‖w_0‖² of one parameter, and its (T, T) products, of no meaning between two that are `known` (indices); None
    where it never changes."""
    distinct = list(dict.fromkeys(keys))
    count = len(path)
    where = {key: keys.index(key) for key in distinct}
    length = info.shape[0] if info.shape else 1
    width = max(1, int(np.prod(info.shape[1:], dtype=np.int64)))
    rows = max(1, BLOCK_BYTES // (8 * len(distinct) * width))
    small = np.zeros((len(distinct), len(distinct)))
    # A value of an earlier step that comes back counts as new: its products are needed.
    later = {key for at, key in enumerate(keys) if at not in known}
    new = [i for i, key in enumerate(distinct) if key in later]
    others = [i for i in range(len(distinct)) if i not in set(new)]
    moves = len(distinct) > 1 and bool(new)
    square = 0.0
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        origin = _values(path[0], info, start, stop)
        square += float(torch.dot(origin, origin))
        if not moves:
            continue
        block = torch.zeros(len(distinct), len(origin), dtype=torch.float64)
        for i, key in enumerate(distinct[1:], start=1):
            torch.sub(_values(path[where[key]], info, start, stop), origin, out=block[i])
        part = (block[new] @ block.T).numpy()
        small[new] += part
        small[np.ix_(others, new)] += part[:, others].T
    if not np.isfinite(square):
        raise Unmeasurable(f"{info.name}: step {path[0].step} holds NaN or infinite entries")
    if not moves:
        return square, None if len(distinct) == 1 else np.zeros((count, count))
    if not np.isfinite(small).all():
        bad = [path[where[distinct[i]]].step for i in range(len(distinct)) if not np.isfinite(small[i]).all()]
        raise Unmeasurable(f"{info.name}: holds NaN or infinite entries at step {bad[-1]}")
    index = [distinct.index(key) for key in keys]
    return square, small[np.ix_(index, index)]


def _values(checkpoint: WholeCheckpoint, info: ParameterInfo, start: int, stop: int) -> torch.Tensor:
    """Rows of a parameter as a float64 vector."""
    found = checkpoint.rows(info.name, start, stop) if info.shape else checkpoint.read(info.name)
    return found.to(torch.float64).flatten()


def by_name(result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The Gram matrices (T, T) by group."""
    return {str(name): result["gram"][i] for i, name in enumerate(result["groups"])}
