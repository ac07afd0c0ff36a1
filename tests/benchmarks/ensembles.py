"""An ensemble of trials trained at once against the same trials one by one, in one process: CPU time and ratios.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ensembles --members 32 --steps 300

"batched": the net's own product over all members; "vmap": the same trials without it. A LeNet has none, so that both
are vmap. Data of the larger nets are noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from analyzers.contract import Trial
from analyzers.intrinsic_dimension import landscape
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.task import Data, Training
from pipeline.models.array_task import Classification
from pipeline.models.nets import Chain
from pipeline.models.tasks import read_task
from tests.analyzers.intrinsic_dimension.trials import MATERIAL, checkpoint, mlp, run


def noise_task(name: str, model: str, shape: tuple[int, ...]) -> Classification:
    """Ten classes of random examples: what is measured is time."""
    draw = torch.Generator().manual_seed(0)
    data = Data((torch.randn(4000, *shape, generator=draw),), torch.randint(0, 10, (4000,), generator=draw))
    few = data.take(torch.arange(200))
    return Classification(name, {"train": data, "tune": few, "score": few}, model, "relu", None, Training(), 10)


def lenet() -> dict[str, torch.Tensor]:
    """6 and 16 kernels of 5 × 5, then 256-120-84-10: 44 426 parameters."""
    torch.manual_seed(0)
    layers: dict[str, torch.nn.Module] = {"conv1": torch.nn.Conv2d(1, 6, 5), "conv2": torch.nn.Conv2d(6, 16, 5)}
    layers |= {f"fc{i}": torch.nn.Linear(a, b) for i, (a, b) in enumerate(((256, 120), (120, 84), (84, 10)), 1)}
    return {f"{name}.{n}": p.detach() for name, layer in layers.items() for n, p in layer.named_parameters()}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--nets", default="digits,mlp,lenet")
    given = parser.parse_args()
    torch.set_num_threads(1)
    landscape.ENSEMBLE_PARAMETERS = landscape.VMAP_PARAMETERS = (
        10**9
    )  # so that what the product would train alone is measured too
    worlds = {
        "digits": (read_task("digits")[2], mlp(), 112, 64),
        "mlp": (noise_task("mlp", "mlp", (784,)), mlp((784, 64, 10)), 300, 128),
        "lenet": (noise_task("lenet", "lenet", (1, 28, 28)), lenet(), 300, 128),
    }
    together = Chain.together
    for name in given.nets.split(","):
        task, state, d, batch = worlds[name]
        short = replace(task, training=Training(given.steps, batch, 0.01, 2))  # type: ignore[type-var]  # a dataclass
        of = checkpoint(state)
        trials: list[Trial] = [
            {"phase": "score", "d": d, "seed": seed, "rate": 0, "budget": 1} for seed in range(given.members)
        ]
        alone = trials[: max(1, given.members // 4)]
        times: dict[str, list[float]] = {"alone": [], "vmap": [], "batched": []}
        for _ in range(given.repeats):
            one = cpu_seconds(lambda: [run(Landscape(MATERIAL), of, short, [trial]) for trial in alone])  # noqa: B023 - called at once
            times["alone"].append(one * given.members / len(alone))
            for kind, forward in (("vmap", None), ("batched", together)):
                Chain.together = forward
                whole = Landscape(MATERIAL, ensemble=given.members)
                times[kind].append(cpu_seconds(lambda: run(whole, of, short, trials)))  # noqa: B023 - called at once
        size = sum(p.numel() for p in state.values())
        middle = {kind: statistics.median(values) for kind, values in times.items()}
        print(
            f"{name}: D = {size}, {given.members} members, {given.steps} steps of {batch}: "
            f"alone {middle['alone']:.2f} s, "
            + ", ".join(f"{k} {middle[k]:.2f} s ({middle['alone'] / middle[k]:.2f} x)" for k in ("vmap", "batched")),
            flush=True,
        )


if __name__ == "__main__":
    main()
