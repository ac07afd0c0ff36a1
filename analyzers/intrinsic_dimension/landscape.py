"""The statistic: how well a checkpoint learns a task in d random dimensions, trial by trial (1804.08838; 2012.13255).

Every trial is a unit with a key of its own: checkpoint, task, kind of map, control, trained parameters, d, seed, rate,
budget. How the search is carried out stays out of the key, so that a finer search repeats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, IterativeStatistic, MatrixInfo, Result, Trial, Unit
from analyzers.errors import Unmeasurable
from analyzers.intrinsic_dimension import lora, search
from analyzers.intrinsic_dimension.controls import Control, chance, controlled
from analyzers.intrinsic_dimension.subspace import Direct, Everything, LayerScaled, Span, Steering, flat, spans_of
from analyzers.intrinsic_dimension.task import Task
from analyzers.intrinsic_dimension.training import Model, TrainingCurve, train_alone, train_ensemble
from analyzers.linalg.projections import projection
from analyzers.models import Material, WholeCheckpoint

MAPLESS = "one_hot"
"""Under whose key the trials stand that have no map."""
ENSEMBLE_PARAMETERS = 60_000
"""Above this D members are trained one by one: their products alone fill a CPU (50 890 parameters gain 1.35 ×)."""
VMAP_PARAMETERS = 20_000
"""The same on a CPU for nets without a batched product: a LeNet of 44 426 parameters loses a third under vmap."""
GROUP_SECONDS = 1.5
"""What the plan puts into one group; a trial says a share of it, so that an ensemble arrives together."""


@dataclass(frozen=True)
class _Setup:
    """One model as members of one seed see it."""

    module: torch.nn.Module
    spans: tuple[Span, ...]
    theta0: torch.Tensor
    n_fresh: int


@dataclass(frozen=True)
class Landscape(IterativeStatistic):
    """Fields of a result: `steps`, `tune`, `score`, `loss` (K + 1,); `diverged_at` (−1: it did not); `n_parameters` D;
    `n_scales` (SAID's λ, inside d), `n_layers` (how many λ SAID has); `n_fresh` trained parameters that the checkpoint
    does not hold; `chance`; `reference` (NaN: none); `is_loss`; `lr` as trained, `base_lr` that of rate step 0."""

    task: Material
    method: str = "one_hot"
    said: bool = False
    control: Control = "none"
    trained: tuple[str, ...] = ("*",)
    lora_rank: int = 0
    plan: search.SearchPlan = field(default_factory=search.SearchPlan)
    ensemble: int = 32

    name: ClassVar[str] = "intrinsic_landscape"
    version: ClassVar[int] = 1
    scope: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False
    reads_models: ClassVar[bool] = True

    def parameters(self) -> dict[str, Any]:
        """What a trial's result is a function of: not how the search goes on, nor how many are trained at once."""
        return {k: v for k, v in self._fields().items() if k not in ("plan", "ensemble")}

    def _fields(self) -> dict[str, Any]:
        return {
            "task": {"kind": self.task.kind, "digest": self.task.digest},
            "method": self.method,
            "said": self.said,
            "control": self.control,
            "trained": list(self.trained),
            "lora_rank": self.lora_rank,
        }

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A share of a group, so that up to `ensemble` trials of one checkpoint are trained together. Real times differ
        by orders between tasks and are not known before one was run."""
        return Cost(seconds=GROUP_SECONDS / self.ensemble, memory_bytes=2**30)

    def propose(self, results: Sequence[tuple[Trial, Result | Unmeasurable]]) -> Sequence[Trial]:
        """See `search`."""
        return search.propose(results, self.plan, self.said)

    def further(self, results: Sequence[tuple[Trial, Result | Unmeasurable]], proposed: int) -> int:
        """From how searches mostly go, see `search.usual_trials`; one that takes longer scores another d yet."""
        return max(self.plan.seeds, search.usual_trials(self.plan) - len(results) - proposed)

    def shared(self, trial: Trial) -> IterativeStatistic:
        """Full training has no map in it, so that all methods share theirs. A control trains on other data or from
        another start, and keeps its own."""
        alike = self.method == MAPLESS and not self.said
        return self if alike or int(trial["d"]) != search.FULL else replace(self, method=MAPLESS, said=False)

    def compute(self, unit: Unit, context: Context) -> Result:
        """One trial."""
        outcome = self.compute_batch([unit], [context])[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def compute_batch(self, units: Sequence[Unit], contexts: Sequence[Context]) -> list[Result | Exception]:
        """Trials of one checkpoint, d and budget are trained together, if the task's model allows it and is small."""
        outcomes: dict[int, Result | Exception] = {}
        alike: dict[tuple[str, int, int], list[int]] = {}
        for index, unit in enumerate(units):
            assert unit.trial is not None
            alike.setdefault((_checkpoint(unit).key, int(unit.trial["d"]), int(unit.trial["budget"])), []).append(index)
        for members in alike.values():
            try:
                done = self._train([units[i] for i in members], contexts[members[0]])
                outcomes.update(zip(members, done, strict=True))
            except Exception as error:  # each unit answers for itself: the caller records it with its traceback
                outcomes.update((index, error) for index in members)
        return [outcomes[index] for index in range(len(units))]

    def _train(self, units: Sequence[Unit], context: Context) -> list[Result]:
        task: Task = context.models.open(self.task)
        splits = controlled(task, self.control)
        reference = float("nan") if task.reference_score is None else task.reference_score
        common = {
            "chance": np.array(chance(task, splits.score)),
            "reference": np.array(reference),
            "is_loss": np.array(task.metric == "loss"),
            "base_lr": np.array(task.training.lr),
        }
        on = context.device
        splits = type(splits)(splits.train.to(on), splits.tune.to(on), splits.score.to(on))
        trials = [unit.trial for unit in units if unit.trial is not None]
        checkpoint = _checkpoint(units[0])
        setups = self._setups(task, checkpoint, context, [int(trial["seed"]) for trial in trials])
        first = next(iter(setups.values()))
        steps = task.training.steps * int(trials[0]["budget"])
        rates = [task.training.lr * search.RATE_STEP ** int(trial["rate"]) for trial in trials]
        seeds = [int(trial["seed"]) for trial in trials]
        d = int(trials[0]["d"])
        curves: list[TrainingCurve] = []
        batched = getattr(first.module, "together", None) is not None or on.type != "cpu"
        largest = ENSEMBLE_PARAMETERS if batched else VMAP_PARAMETERS
        together = task.ensembles and len(first.theta0) <= largest and len(trials) > 1
        for begin in range(0, len(trials), self.ensemble if together else 1):
            part = slice(begin, begin + (self.ensemble if together else 1))
            steering = self._steering(first, d, seeds[part], on)
            if together:
                theta0 = torch.stack([setups[seed].theta0 for seed in seeds[part]])
                curves += train_ensemble(
                    task, first.module, first.spans, theta0, steering, splits, seeds[part], rates[part], steps
                )
            else:
                one = setups[seeds[begin]]
                model = Model(one.module, one.spans, one.theta0)
                curves.append(train_alone(task, model, steering, splits, seeds[begin], rates[begin], steps))
        n_layers = 1 + max(span.layer for span in first.spans)
        counts = {
            "n_parameters": np.array(len(first.theta0)),
            "n_scales": np.array(n_layers if self.said and d != search.FULL else 0),
            "n_layers": np.array(n_layers),
            "n_fresh": np.array(first.n_fresh),
        }
        return [
            {
                "steps": curve.steps,
                "tune": curve.tune,
                "score": curve.score,
                "loss": curve.loss,
                "diverged_at": np.array(curve.diverged_at),
                "lr": np.array(rate),
                **common,
                **counts,
            }
            for curve, rate in zip(curves, rates, strict=True)
        ]

    def _setups(
        self, task: Task, checkpoint: WholeCheckpoint, context: Context, seeds: Sequence[int]
    ) -> dict[int, _Setup]:
        """By seed; one for all where nothing varies with it."""
        setups: dict[int, _Setup] = {}
        for seed in seeds:
            if seed not in setups and (not setups or self._varies(next(iter(setups.values())))):
                setups[seed] = self._setup(task, checkpoint, context, seed)
            setups.setdefault(seed, next(iter(setups.values())))
        return setups

    def _setup(self, task: Task, checkpoint: WholeCheckpoint, context: Context, seed: int) -> _Setup:
        built = task.build(checkpoint, context.models, seed, self.control == "random_init")
        module = built.module.to(torch.float32).eval()
        fresh = set(built.fresh)
        trained = self.trained
        if self.lora_rank:
            added = lora.attach(module, self.lora_rank, seed)
            fresh = {name.replace(".weight", ".linear.weight") for name in fresh} | fresh | set(added)
            trained = ("*.lora_?", *built.fresh)
        module = module.to(context.device)
        spans = spans_of(module, trained)
        n_fresh = sum(span.stop - span.start for span in spans if span.name in fresh)
        return _Setup(module, spans, flat(module, spans), n_fresh)

    def _varies(self, setup: _Setup) -> bool:
        """Whether the model at the start differs from seed to seed."""
        return setup.n_fresh > 0 or self.control == "random_init"

    def _steering(self, setup: _Setup, d: int, seeds: Sequence[int], device: torch.device) -> Steering:
        """What is trained. A map depends on kind, D, d and the seed: checkpoints of a series share theirs."""
        n_full = len(setup.theta0)
        if d == search.FULL:
            return Everything(n_full)
        scales = 1 + max(span.layer for span in setup.spans) if self.said else 0
        if d <= scales:
            raise Unmeasurable(f"SAID counts {scales} layers' λ inside d, so d must be above that, not {d}")
        maps = [projection(self.method, n_full, d - scales, _map_seed(seed, d), device) for seed in seeds]
        return LayerScaled(maps, setup.spans) if self.said else Direct(maps)


def _map_seed(seed: int, d: int) -> int:
    return (seed * 1_000_003 + d) * 2_654_435_761 % 2**62


def _checkpoint(unit: Unit) -> WholeCheckpoint:
    checkpoint = unit.only.checkpoint
    assert checkpoint is not None
    return checkpoint
