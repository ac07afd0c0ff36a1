"""Random maps, neighbours and a short training on CUDA agree with the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from analyzers.contract import Context, Observation, Unit
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.task import Training
from analyzers.linalg.neighbours import nearest
from analyzers.linalg.projections import KINDS, projection
from pipeline.models.tasks import read_task
from tests.analyzers.intrinsic_dimension.trials import MATERIAL, OneTask, checkpoint, mlp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_is_the_same_on_both_devices(kind: str) -> None:
    z, g = torch.randn(40), torch.randn(5000)
    on_cpu, on_cuda = projection(kind, 5000, 40, 3), projection(kind, 5000, 40, 3, "cuda")
    # float32 sums of up to 5000 terms, in another order on CUDA
    torch.testing.assert_close(on_cuda.up(z.cuda()).cpu(), on_cpu.up(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(on_cuda.adjoint(g.cuda()).cpu(), on_cpu.adjoint(g), atol=1e-3, rtol=1e-3)


def test_neighbours_are_the_same_on_both_devices() -> None:
    x = torch.randn(700, 80)
    torch.testing.assert_close(nearest(x.cuda(), 20)[0].cpu(), nearest(x, 20)[0], rtol=1e-9, atol=1e-9)


def test_an_ensemble_trains_on_cuda_as_on_the_cpu() -> None:
    _, _, task = read_task("digits")
    short = replace(task, training=Training(steps=20, batch_size=32, lr=0.01, evaluations=1))
    of = checkpoint(mlp())
    units = [
        Unit(
            (Observation("run", 0, None, None, checkpoint=of),),
            {"phase": "score", "d": 50, "seed": seed, "rate": 0, "budget": 1},
        )
        for seed in (0, 1)
    ]
    losses = []
    for device in ("cpu", "cuda"):
        contexts = [Context(torch.device(device), models=OneTask(short))] * 2
        results = Landscape(MATERIAL).compute_batch(units, contexts)
        losses.append([float(result["loss"][-1]) for result in results if not isinstance(result, Exception)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
    assert len(losses[1]) == 2
