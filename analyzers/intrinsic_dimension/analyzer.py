"""The analyzer: which searches it asks for, and how the report's variables follow from what is stored."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import Field, field_validator

from analyzers.contract import Analyzer, AnalyzerParameters, Derived, Statistic, Variable, View
from analyzers.intrinsic_dimension import derivation
from analyzers.intrinsic_dimension.controls import CONTROLS, Control
from analyzers.intrinsic_dimension.joint import JointTrajectory
from analyzers.intrinsic_dimension.landscape import Landscape
from analyzers.intrinsic_dimension.layers import of_representation
from analyzers.intrinsic_dimension.paths import AXES, COMPONENTS, of_joint, of_trajectory
from analyzers.intrinsic_dimension.representation import Representation
from analyzers.intrinsic_dimension.search import SearchPlan, Target
from analyzers.intrinsic_dimension.trajectory import Trajectory
from analyzers.intrinsic_dimension.variables import BY_NAME, VARIABLES
from analyzers.models import Material

Method = Literal["one_hot", "fastfood", "dense", "sparse"]


class IntrinsicParameters(AnalyzerParameters):
    """Settings. Only those marked * change a trial's key; the others decide which trials are asked for."""

    tasks: tuple[Material, ...] = Field((), description="what is learned; given by --task")
    methods: tuple[Method, ...] = Field(("one_hot",), min_length=1, description="* kinds of random map")
    said: bool = Field(False, description="* also SAID: one learned scale for each layer, inside d")
    did: bool = Field(True, description="DID, the plain map")
    controls: bool = Field(False, description="* also random θ0, shuffled labels, shuffled pixels or tokens")
    trained: tuple[str, ...] = Field(("*",), min_length=1, description="* globs on the parameters that are trained")
    lora_rank: int = Field(0, ge=0, description="* train fresh LoRA factors of this rank only (0: the weights)")
    levels: tuple[float, ...] = Field((0.9, 0.95, 0.99), min_length=1)
    refined: tuple[float, ...] = Field((0.9,), description="levels whose crossing is searched for; others are read off")
    refine_global: bool = Field(False, description="search for the crossing of the global threshold too")
    seeds: int = Field(5, ge=2, description="fresh seeds at each end of the bracket")
    baseline_seeds: int = Field(3, ge=1)
    tune_seeds: int = Field(1, ge=1, description="seeds that choose rate and stop, never scored")
    resolution: float = Field(1.5, gt=1, description="greatest ratio of the bracket's ends")
    d_max: int = Field(0, ge=0, description="greatest d that is tried; 0: all parameters")
    check_budget: bool = Field(False, description="train baseline and bracket twice as long, and flag what changes")
    ensemble: int = Field(32, ge=1, description="trials of a small model that are trained at once")
    landscape: bool = Field(True, description="the search for d, for each task")
    representation: bool = Field(True, description="dimension of the activations on each task's score examples")
    layers: tuple[str, ...] = Field((), description="* globs on the modules listened to; none: the numbered layers")
    samples: int = Field(1000, ge=21, description="* examples whose activations are looked at")
    trajectory: bool = Field(True, description="the run's path through weight space; needs no task")
    joint: bool = Field(True, description="also the paths of runs of one architecture in one basis; reads all again")

    @field_validator("levels", "refined")
    @classmethod
    def _fractions(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError(f"every level is a fraction in (0, 1], got {values}")
        return tuple(sorted(set(values)))


class IntrinsicDimension(Analyzer):
    """How many dimensions learning a task takes from a checkpoint, and the run's path through weight space."""

    name: ClassVar[str] = "intrinsic_dimension"
    version: ClassVar[int] = 3
    variables: ClassVar[tuple[Variable, ...]] = VARIABLES
    Parameters: ClassVar[type[AnalyzerParameters]] = IntrinsicParameters

    def statistics(self) -> tuple[Statistic, ...]:
        """The trajectory, and for each task a search by method and control."""
        s: IntrinsicParameters = self.parameters
        path: tuple[Statistic, ...] = (Trajectory(),) if s.trajectory else ()
        path += (JointTrajectory(),) if s.trajectory and s.joint else ()
        return (*path, *self._searches(), *self._clouds())

    def derive(self, view: View) -> Derived:
        """All variables, from stored trials and Gram matrices; nothing is trained."""
        s: IntrinsicParameters = self.parameters
        arrays: dict[str, np.ndarray] = {}
        coordinates: dict[str, Any] = {}
        notes: tuple[str, ...] = ()
        if s.trajectory:
            path, groups, said = of_trajectory(view, Trajectory())
            arrays |= path
            coordinates |= {"group": groups, "component": np.arange(1, COMPONENTS + 1), "axis": np.arange(1, AXES + 1)}
            notes += said
            if s.joint:
                joint, of_planes = of_joint(view, JointTrajectory())
                arrays |= joint
                notes += of_planes
        searches = self._searches()
        if searches:
            tasks = list(dict.fromkeys(one.task.name for one in searches))
            methods = list(dict.fromkeys(derivation.label(one) for one in searches))
            found = derivation.cells(view, searches)
            landscape, d = derivation.of_landscape(view, found, tasks, methods, s.levels)
            arrays |= landscape
            coordinates |= {
                "task": tasks,
                "method": methods,
                "threshold": list(derivation.THRESHOLDS),
                "level": np.array(s.levels),
                "d": d,
            }
            notes += _notes(s)
        clouds = self._clouds()
        if clouds:
            of_layers, layers = of_representation(view, clouds)
            arrays |= of_layers
            tasks = [one.task.name for one in clouds]
            coordinates |= {"layer": layers, "scale": np.array(clouds[0].scales), "task": tasks}
            notes += ("Estimates from nearest neighbours are biased low at high dimension; equal points are dropped.",)
        if not s.tasks:
            notes += ("No task was given (--task), so only the path through weight space is measured.",)
        return Derived(_dataset(view, arrays, coordinates), notes=notes)

    def _clouds(self) -> tuple[Representation, ...]:
        s: IntrinsicParameters = self.parameters
        return tuple(Representation(task, s.layers, s.samples) for task in s.tasks) if s.representation else ()

    def _searches(self) -> tuple[Landscape, ...]:
        s: IntrinsicParameters = self.parameters
        targets: list[Target] = [("local", level) for level in s.refined]
        targets += [("global", level) for level in s.refined if s.refine_global]
        budgets = (1, 2) if s.check_budget else (1,)
        plan = SearchPlan(tuple(targets), s.resolution, s.seeds, s.baseline_seeds, s.tune_seeds, s.d_max, budgets)
        controls: tuple[Control, ...] = ("none", *CONTROLS) if s.controls else ("none",)
        kinds = [said for said, wanted in ((False, s.did), (True, s.said)) if wanted]
        return tuple(
            Landscape(task, method, said, control, s.trained, s.lora_rank, plan, s.ensemble)
            for task in (s.tasks if s.landscape else ())
            for method in s.methods
            for said in kinds
            for control in controls
        )


def _notes(s: IntrinsicParameters) -> tuple[str, ...]:
    levels = ", ".join(f"{level:g}" for level in s.refined)
    return (
        "d_int: local = level × this checkpoint's full-training score, run = level × the best of its run, global = "
        "level × the task's reference; corrected = of what lies above chance.",
        "d_int is NaN where it is censored: then censored = 1 means above d_int_limit, the greatest d tried, and -1 at "
        "or below it, the least. d_int = 0: the score was there before any training. Read d_int_flag beside it.",
        f"Searched for at level {levels}; other levels are read off the same curve and have wider intervals.",
        "Rates and stops are chosen on a tuning split with seeds of their own; scores are of fresh seeds on a third "
        "split. Intervals are over seeds and tunings: of one checkpoint, not of training runs.",
    )


def _dataset(view: View, arrays: dict[str, np.ndarray], coordinates: dict[str, Any]) -> xr.Dataset:
    dataset = view.dataset(arrays, [BY_NAME[name] for name in arrays])
    return dataset.assign_coords({name: (name, values) for name, values in coordinates.items() if name in dataset.dims})
