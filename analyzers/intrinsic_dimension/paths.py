"""Stored Gram matrices → the trajectory's arrays."""

from __future__ import annotations

import numpy as np

from analyzers.contract import Result, View
from analyzers.intrinsic_dimension.joint import JointTrajectory
from analyzers.intrinsic_dimension.path import joint_of, path_of
from analyzers.intrinsic_dimension.trajectory import WHOLE, Trajectory, by_name
from analyzers.intrinsic_dimension.walk import dimension_of_moves, interval

AXES = 3
COMPONENTS = 10
_OF_GROUPS = ("path_dimension", "path_dimension_null", "move_dimension", "group_size")
Arrays = dict[str, np.ndarray]


def of_trajectory(view: View, statistic: Trajectory) -> tuple[Arrays, list[str], tuple[str, ...]]:
    """Arrays, the names of the groups, and notes on what the path leaves out."""
    results: dict[int, Result] = {}
    for r, run in enumerate(view.runs):
        if run.role == "base" or len(run.steps) < 2:
            continue
        result = view.get(statistic, run.id)
        if result is not None:
            results[r] = result
    groups = list(dict.fromkeys(str(name) for result in results.values() for name in result["groups"])) or [WHOLE]
    runs, steps = len(view.runs), len(view.steps)
    arrays: Arrays = {
        **{
            n: np.full((runs, len(groups), COMPONENTS), np.nan)
            for n in (
                "explained_variance",
                "explained_variance_null",
                "explained_variance_null_low",
                "explained_variance_null_high",
            )
        },
        **{n: np.full((runs, len(groups)), np.nan) for n in _OF_GROUPS},
        "path": np.full((runs, steps, len(groups), AXES), np.nan),
        **{
            n: np.full((runs, steps, len(groups)), np.nan)
            for n in ("step_cosine", "distance_from_start", "relative_distance")
        },
    }
    notes: list[str] = []
    for r, result in results.items():
        at = np.searchsorted(view.steps, result["steps"])
        for i, (name, gram) in enumerate(by_name(result).items()):
            _fill(arrays, r, groups.index(name), at, gram, result, i)
        if frozen := int(result["frozen"]):
            notes.append(f"{view.runs[r].id}: entries that never change along the path: {frozen}.")
        if left_out := int(result["left_out"]):
            why = "missing at some step, of another shape there, or not floating-point"
            notes.append(f"{view.runs[r].id}: tensors left out of the path ({why}): {left_out}.")
    return arrays, groups, tuple(notes)


def _fill(arrays: Arrays, r: int, g: int, at: np.ndarray, gram: np.ndarray, result: Result, i: int) -> None:
    path = path_of(gram, result["steps"], AXES)
    kept = min(COMPONENTS, len(path.explained))
    arrays["explained_variance"][r, g, :kept] = path.explained[:kept]
    arrays["explained_variance_null"][r, g, :kept] = path.explained_null[:kept]
    dimension = dimension_of_moves(path.moves)
    low, high = interval(result["steps"], dimension)
    arrays["explained_variance_null_low"][r, g, :kept] = low[:kept]
    arrays["explained_variance_null_high"][r, g, :kept] = high[:kept]
    arrays["move_dimension"][r, g] = dimension
    arrays["path_dimension"][r, g], arrays["path_dimension_null"][r, g] = path.effective, path.effective_null
    arrays["group_size"][r, g] = result["sizes"][i]
    arrays["path"][r, at, g] = path.components
    arrays["step_cosine"][r, at, g] = path.cosine
    arrays["distance_from_start"][r, at, g] = path.distance
    start = float(result["start_norm"][i])
    if start > 0:
        arrays["relative_distance"][r, at, g] = path.distance / start


def of_joint(view: View, statistic: JointTrajectory) -> tuple[Arrays, tuple[str, ...]]:
    """The runs' paths in joint bases, one for each architecture of several runs, and notes on what these leave out."""
    runs, steps = len(view.runs), len(view.steps)
    arrays: Arrays = {
        "joint_plane": np.full(runs, np.nan),
        "joint_path": np.full((runs, steps, AXES), np.nan),
        "joint_explained_variance": np.full((runs, COMPONENTS), np.nan),
        "joint_share_of_path": np.full((runs, AXES), np.nan),
    }
    notes: list[str] = []
    units: dict[bytes, tuple[Result, list[int]]] = {}
    for r, run in enumerate(view.runs):
        result = None if run.role == "base" else view.get(statistic, run.id)
        if result is not None and int(result["size"]):
            units.setdefault(result["keys"].tobytes() + result["steps"].tobytes(), (result, []))[1].append(r)
    for number, (result, members) in enumerate(units.values(), 1):
        index = result["run_index"]
        joint = joint_of(result["gram"], index, AXES)
        kept = min(COMPONENTS, len(joint.explained))
        for position, r in enumerate(members):  # rows are positional, in the order of the report's runs
            rows = index == position
            arrays["joint_plane"][r] = number
            arrays["joint_path"][r, np.searchsorted(view.steps, result["steps"][rows])] = joint.components[rows]
            arrays["joint_explained_variance"][r, :kept] = joint.explained[:kept]
            arrays["joint_share_of_path"][r] = joint.shares[position]
        if left_out := int(result["left_out"]):
            notes.append(f"Joint basis {number}: tensors left out, since not every checkpoint has them: {left_out}.")
    return arrays, tuple(notes)
