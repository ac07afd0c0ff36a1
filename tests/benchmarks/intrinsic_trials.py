"""What the intrinsic dimension of MNIST nets depends on: the map, the training, the labels. Single trials at chosen d.

    python -m tests.benchmarks.intrinsic_trials MNIST maps --methods fastfood --d 446,631 --rates 1,0
    python -m tests.benchmarks.intrinsic_trials MNIST plain --d 446,631 --lr 0.001 --init he --l2 1e-4 --steps 46900
    python -m tests.benchmarks.intrinsic_trials MNIST labels --examples 1000 --steps 1000

maps: trials of the product at given rates. plain: a loop of its own, no rate tuned, constant by default.
labels: d_int90 of the *training* accuracy, true labels against shuffled ones.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyzers.intrinsic_dimension import search
from analyzers.intrinsic_dimension.controls import ORDER_SEED
from analyzers.intrinsic_dimension.derivation import cell_of
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.task import Data, Split
from analyzers.linalg.projections import projection
from pipeline.models.array_task import Classification
from pipeline.models.tasks import read_task
from tests.analyzers.intrinsic_dimension.trials import MATERIAL, OneTask, carry_out, checkpoint, run
from tests.benchmarks.intrinsic_mnist import fc, lenet, write_task


def accuracy(task: Classification, model: torch.nn.Module, split: Split) -> float:
    """Share of right answers on a split."""
    data = task.data(split)
    parts = [data.take(index) for index in torch.arange(len(data)).split(1000)]
    return float(sum(task.scores(model(*p.inputs), p.targets).sum() for p in parts)) / len(data)


def maps(task: Classification, state: dict[str, torch.Tensor], given: argparse.Namespace) -> None:
    """Test accuracy by map and d, the product's own training at a given rate."""
    for method in given.methods.split(","):
        for d, rate in zip(given.d, given.rates, strict=True):
            began = time.process_time()
            trials = [
                {"phase": "score", "d": d, "seed": seed, "rate": rate, "budget": given.budget}
                for seed in range(given.seeds)
            ]
            # One by one: a convolutional net is no faster as an ensemble.
            results = [run(Landscape(MATERIAL, method), checkpoint(state), task, [trial])[0] for trial in trials]
            scores = [float(result["score"][-1]) for result in results]
            minutes = (time.process_time() - began) / 60
            said = " ".join(f"{score:.4f}" for score in scores)
            print(f"{method} d {d} rate {rate}: {np.mean(scores):.4f} ({said}), {minutes:.1f} CPU minutes", flush=True)


def plain(task: Classification, state: dict[str, torch.Tensor], given: argparse.Namespace) -> None:
    """Test accuracy along training by torch's own optimiser in z, with nothing tuned. `lr` is the step of a
    coordinate of z."""
    train = task.data("train")
    for d, seed in ((d, seed) for d in given.d for seed in range(given.seeds)):
        began = time.process_time()
        torch.manual_seed(seed)
        model = task.build(checkpoint(state), OneTask(task), seed, False).module.requires_grad_(False)
        parameters = dict(model.named_parameters())
        if given.init == "he":
            for p in parameters.values():
                torch.nn.init.zeros_(p) if p.ndim == 1 else torch.nn.init.kaiming_normal_(p)
        theta0 = torch.cat([p.flatten() for p in parameters.values()])
        kernels = torch.cat([torch.full((p.numel(),), float(p.ndim > 1)) for p in parameters.values()])
        theta, gradient = theta0.clone(), torch.zeros_like(theta0)
        at = 0
        for p in parameters.values():
            part = slice(at, at + p.numel())
            p.data, p.grad = theta[part].view(p.shape), gradient[part].view(p.shape)
            at += p.numel()
            p.requires_grad_(True)
        p_map = projection(given.methods, len(theta0), d, seed)
        z = torch.zeros(d, requires_grad=True)
        optimizer: Any = torch.optim.Adam([z], lr=given.lr, betas=(0.9, given.beta2))
        if given.optimizer == "sgd":
            optimizer = torch.optim.SGD([z], lr=given.lr, momentum=0.9)
        draw = torch.Generator().manual_seed(seed)
        looks = {round(given.steps * share) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)}
        seen = []
        order = torch.empty(0, dtype=torch.int64)
        for step in range(1, given.steps + 1):
            if len(order) < 128:
                order = torch.cat((order, torch.randperm(len(train), generator=draw)))
            batch, order = train.take(order[:128]), order[128:]
            gradient.zero_()
            task.loss(model(*batch.inputs), batch.targets).backward()
            gradient.add_(theta * kernels, alpha=2 * given.l2)
            z.grad = p_map.adjoint(gradient)
            if given.schedule == "cosine":
                optimizer.param_groups[0]["lr"] = given.lr * 0.5 * (1 + math.cos(math.pi * step / given.steps))
            optimizer.step()
            with torch.no_grad():
                torch.add(theta0, p_map.up(z), out=theta)
                if step in looks:
                    seen.append(f"{step}:{accuracy(task, model, 'score'):.4f}")
        minutes = (time.process_time() - began) / 60
        print(f"{given.methods} d {d} seed {seed}: {' '.join(seen)}, {minutes:.1f} CPU minutes", flush=True)


@dataclass(frozen=True)
class OnTraining(Classification):
    """The task scored where it is learned: `tune` and `score` are two halves of the training examples."""

    def data(self, split: Split) -> Data:
        """As `controlled` does for shuffled labels, the same halves."""
        train = self.splits["train"]
        draw = torch.Generator().manual_seed(ORDER_SEED)
        torch.randperm(len(train), generator=draw)
        chosen = torch.randperm(len(train), generator=draw)
        half = len(chosen) // 2
        return {"train": train, "tune": train.take(chosen[:half]), "score": train.take(chosen[half:])}[split]


def labels(task: Classification, state: dict[str, torch.Tensor], given: argparse.Namespace) -> None:
    """d_int90 of the training accuracy, with true and with shuffled labels."""
    splits = task.splits | {"train": task.splits["train"].take(torch.arange(given.examples))}
    on_training = OnTraining(**{**vars(task), "splits": splits})
    plan = search.SearchPlan(seeds=given.seeds, baseline_seeds=given.seeds, resolution=2.0)
    for control in ("none", "shuffled_labels"):
        began = time.process_time()
        statistic = Landscape(MATERIAL, control=control, plan=plan)
        found = carry_out(statistic, checkpoint(state), on_training)
        curve = cell_of(statistic, found, "run").curve
        assert curve is not None
        at = curve.crossing(0.9 * curve.baseline, 0.9 * curve.draws.baseline)
        minutes = (time.process_time() - began) / 60
        print(
            f"{control}: full training {curve.baseline:.4f}; d_int90 {at.value:.0f} [{at.low:.0f}, {at.high:.0f}] "
            f"censored {at.censored}; {len(found)} trials in {minutes:.1f} CPU minutes"
        )
        print("  " + " ".join(f"{d}:{mean:.4f}" for d, mean in zip(curve.d, curve.means, strict=True)), flush=True)


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("what", choices=("maps", "plain", "labels"))
    parser.add_argument("--net", choices=("fc", "lenet"), default="fc")
    parser.add_argument("--methods", default="one_hot")
    parser.add_argument("--d", type=numbers, default=[446, 631])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rates", type=numbers, default=[1, 0], help="maps: of each d, 0.01 · √10^RATE")
    parser.add_argument("--budget", type=int, default=1, help="maps: scored trials have so many times the steps")
    parser.add_argument("--examples", type=int, default=1000, help="labels: training examples")
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    parser.add_argument("--schedule", choices=("constant", "cosine"), default="constant")
    parser.add_argument("--lr", type=float, default=0.001, help="plain: step of a coordinate of z")
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--l2", type=float, default=0.0, help="plain: l2 · Σ kernel² is added to the loss")
    parser.add_argument("--init", choices=("torch", "he"), default="torch")
    given = parser.parse_args()
    torch.set_num_threads(1)
    state = (fc if given.net == "fc" else lenet)(0)
    with tempfile.TemporaryDirectory() as folder:
        task = read_task(str(write_task(Path(folder), given.mnist, given.net, given.steps, 0.01)))[2]
    assert isinstance(task, Classification)
    task = replace(task, training=replace(task.training, evaluations=1))
    {"maps": maps, "plain": plain, "labels": labels}[given.what](task, state, given)


if __name__ == "__main__":
    main()
