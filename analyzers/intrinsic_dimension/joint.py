"""The statistic: the paths of several runs in one space, as the Gram matrix of all their checkpoints.

G_ij = ⟨w_i − w_0, w_j − w_0⟩ over every checkpoint of every run, w_0 the first run's first one, summed in float64 over
blocks of parameters as in `trajectory`. Its principal components are axes that all runs share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.intrinsic_dimension.trajectory import common_parameters, cost_of_gram, products_of
from analyzers.models import WholeCheckpoint


@dataclass(frozen=True)
class JointTrajectory(Statistic):
    """Of the N checkpoints of runs of one architecture, run by run:

    `gram` (N, N); `run_index` (N,) which run of the unit a checkpoint is of; `steps` (N,); `keys` (N,) what it holds;
    `names` the parameters that all have in one shape, `size` how many numbers these hold, `left_out` how many others
    there are. Where they share none, `size` is 0.
    """

    name: ClassVar[str] = "joint_trajectory"
    version: ClassVar[int] = 1
    scope: ClassVar[Any] = "runs"
    over: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False
    reads_models: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """Reading every parameter of every run once, and the products of all differences."""
        return cost_of_gram(infos)

    def compute(self, unit: Unit, context: Context) -> Result:
        """See the class. What `unit.previous` holds of pairs of these checkpoints is taken over."""
        observations = [o for o in unit.observations if o.checkpoint is not None]
        path = [o.checkpoint for o in observations if o.checkpoint is not None]
        common, left_out = common_parameters(path)
        names = [info.name for info in common]
        known = _known(unit.previous, path, names)
        tables = [{info.name: info.key for info in one.parameters} for one in path]
        gram = np.zeros((len(path), len(path)))
        for info in common:
            _, products = products_of(path, [table[info.name] for table in tables], info, known)
            if products is not None:
                gram += products
        if known and unit.previous is not None:
            theirs = list(known.values())
            gram[np.ix_(list(known), list(known))] = unit.previous["gram"][np.ix_(theirs, theirs)]
        starts = [0, *(a.run != b.run for a, b in pairwise(observations))]
        return {
            "gram": gram,
            "run_index": np.cumsum(starts, dtype=np.int64),
            "steps": np.array([one.step for one in path], dtype=np.int64),
            "keys": np.array([one.key for one in path]),
            "names": np.array(names, dtype=np.str_),
            "size": np.array(sum(int(np.prod(info.shape, dtype=np.int64)) for info in common), dtype=np.int64),
            "left_out": np.array(left_out, dtype=np.int64),
        }


def _known(previous: Result | None, path: Sequence[WholeCheckpoint], names: Sequence[str]) -> dict[int, int]:
    """Index of a checkpoint → its index in the earlier result; none where that has other parameters or another w_0."""
    if previous is None or [str(name) for name in previous["names"]] != list(names):
        return {}
    at = {str(key): index for index, key in reversed(list(enumerate(previous["keys"])))}
    if at.get(path[0].key) != 0:
        return {}
    return {index: at[one.key] for index, one in enumerate(path) if one.key in at}
