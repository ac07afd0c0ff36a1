"""Stored results → arrays of the report, one function per statistic; vectorised over equal-shaped stacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyzers.contract import MatrixInfo, Result, RunInfo, Stack, Statistic, Variable, View
from analyzers.intruder_dimensions import flags
from analyzers.intruder_dimensions.across_runs import ChangeAcrossRuns
from analyzers.intruder_dimensions.change import Change
from analyzers.intruder_dimensions.counts import (
    count_below,
    null_summary,
    null_sums,
    prediction_interval,
    spectral_ranks,
)
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.matched import IntruderMatched
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.pair import refusal
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg.scores import chance_similarity

if TYPE_CHECKING:
    from analyzers.intruder_dimensions.parameters import IntruderParameters

Arrays = dict[str, np.ndarray]
ONE_RUN = (
    "Only one run has an update of this archive's matrices: there is no other norm to match it to, so "
    "n_intruders_matched is empty. Analyse it together with the run you want to compare it with."
)


def of_scores(view: View, statistic: Intruders, settings: IntruderParameters) -> Arrays:
    """Scores, their uncertainties and windows, the counts, and what a random vector scores."""
    k = settings.scored
    cut = {
        name: _gather(view, statistic, field, (2, k), lambda v: v[:, :, :k].astype(float))
        for name, field in (
            ("similarity", "similarity"),
            ("score_error", "error"),
            ("storage_uncertainty", "storage"),
            ("best_match", "index"),
            ("sigma_match", "sigma_match"),
            ("similarity_window", "window"),
            ("window_size", "window_size"),
        )
    }
    absent = np.isnan(cut["similarity"])
    for name in ("best_match", "window_size"):
        cut[name][absent] = np.nan
    sigma = _gather(view, statistic, "sigma", (k,), lambda v: v[:, :k])
    sigma_base = _gather(view, statistic, "sigma_base", (k,), lambda v: v[:, :k])
    arrays: Arrays = cut | {"sigma": np.broadcast_to(sigma[..., None, :], absent.shape).copy()}
    measured = ~np.isnan(sigma_base).all(axis=-1)
    slack = cut["score_error"] + cut["storage_uncertainty"]
    for name, scores in (
        ("n_intruders", cut["similarity"]),
        ("n_intruders_low", cut["similarity"] + slack),
        ("n_intruders_high", cut["similarity"] - slack),
    ):
        arrays[name] = count_below(scores, settings.ks, settings.epsilons)
        arrays[name][~measured] = np.nan
    dimensions = _dimensions(view)  # (run, matrix, side): m, n
    arrays["window_chance"] = np.sqrt(cut["window_size"] / dimensions[:, None, :, :, None])
    arrays["chance_similarity"] = _matrix_table(view, _chance, (2,))
    arrays["principal_angle"] = _angles(view, statistic, settings)
    arrays["similarity_flag"] = flags.of_scores(cut["score_error"])
    return arrays


def of_flags(view: View, statistic: Intruders, change: Change, arrays: Arrays, settings: IntruderParameters) -> Arrays:
    """Which subspaces rounding alone can exchange; needs `delta_noise_floor`."""
    k = settings.scored
    sigmas = [_gather(view, statistic, field, (k,), lambda v: v[:, :k]) for field in ("sigma", "sigma_base")]
    gaps = _gather(view, change, "base_gap", (len(settings.subspace_ranks),))
    floor = arrays["delta_noise_floor"]
    p = _dimensions(view).min(axis=-1)[:, None, :]
    largest = sigmas[1][..., :1]
    of_shares = flags.within_rounding(gaps, floor[..., None], largest, p[..., None])
    at = [settings.subspace_ranks.index(k) if k in settings.subspace_ranks else None for k in settings.ks]
    none = np.full(floor.shape, np.nan)
    of_ks = np.stack([none if i is None else gaps[..., i] for i in at], axis=-1)
    return {
        "delta_in_base_subspace_flag": flags.flagged(of_shares, ~np.isnan(gaps)),
        "principal_angle_flag": flags.of_angles(sigmas, of_ks, settings.ks, floor, p),
    }


def of_null(view: View, statistic: IntruderNull, shape: tuple[int, ...], settings: IntruderParameters) -> Arrays:
    """The null's mean and interval, (run, step, matrix, ...) as `shape`, and those of the sum over matrices."""
    names = ("n_intruders_null", "n_intruders_null_low", "n_intruders_null_high")
    arrays = {name: np.full(shape, np.nan, dtype=np.float32) for name in names}
    for stack in view.stacks(statistic, "similarity"):
        summary = null_summary(stack.values[:, : settings.draws], settings.ks, settings.epsilons)
        for name, values in zip(names, summary, strict=True):
            arrays[name][_where(stack)] = values
    arrays["total_intruders_null_matrices"] = counted(arrays[names[0]])
    arrays |= _null_totals(view, statistic, settings)
    return arrays


def most_possible(scores: np.ndarray) -> np.ndarray:
    """One draw (N, 1, 2, K) that counts every score there is: more than these no draw of (N, draws, 2, K) can give."""
    return np.where(np.isnan(scores[:, :1]), np.nan, -1.0)


def totals(counts: np.ndarray) -> np.ndarray:
    """(run, step, matrix, ...) → (run, step, ...): sums over matrices, NaN where none is measured."""
    return np.where(np.isnan(counts).all(axis=2), np.nan, np.nansum(counts, axis=2, dtype=np.float64))


def counted(counts: np.ndarray) -> np.ndarray:
    """(run, step, matrix, ...) → (run, step): how many matrices have a value, NaN where none has."""
    there = (~np.isnan(counts).all(axis=tuple(range(3, counts.ndim)))).sum(axis=2)
    return np.where(there, there, np.nan)


def notes_on_totals(view: View, matrices: np.ndarray) -> tuple[str, ...]:
    """The checkpoints whose totals lack matrices, from how many each total counts, (run, step)."""
    fewer = []
    for index, run in enumerate(view.runs):
        if run.role != "run":
            continue
        expected = len(_comparable(view, run.id))
        for step in run.steps:
            there = matrices[index, np.searchsorted(view.steps, step)]
            if there < expected:
                fewer.append(f"{there:.0f} of {expected} at step {step} of {run.id}")
    if not fewer:
        return ()
    listed = "; ".join(fewer[:3]) + (f"; and {len(fewer) - 3} more checkpoints" if len(fewer) > 3 else "")
    return (
        f"total_intruders counts fewer matrices than could be compared: {listed}. Do not compare these totals with "
        "those of other steps; total_intruders_matrices has the number everywhere.",
    )


def _comparable(view: View, run: str) -> list[str]:
    """The matrices of a run that its base has in the same shape."""
    names = []
    for name in view.matrices:
        info, reference = view.info(run, name), view.reference_info(run, name)
        if info is not None and reference is not None and refusal(info, reference) is None:
            names.append(name)
    return names


def _null_totals(view: View, statistic: IntruderNull, settings: IntruderParameters) -> Arrays:
    """Draw i of every matrix of a checkpoint added: draws of the sum, since the matrices' draws are independent."""
    runs, steps = len(view.runs), len(view.steps)
    tail = (2, len(settings.ks), len(settings.epsilons))
    sums = np.zeros((runs * steps, settings.draws, *tail))
    most = np.zeros((runs * steps, 1, *tail))
    present = np.zeros(runs * steps, dtype=bool)
    for stack in view.stacks(statistic, "similarity"):
        place = stack.run_index * steps + stack.step_index
        scores = stack.values[:, : settings.draws]
        sums += null_sums(scores, place, runs * steps, settings.ks, settings.epsilons)
        most += null_sums(most_possible(scores), place, runs * steps, settings.ks, settings.epsilons)
        present[place] = True
    sums[~present] = np.nan
    names = ("total_intruders_null", "total_intruders_null_low", "total_intruders_null_high")
    mean, low, high = prediction_interval(sums)
    ends = (mean, low, np.minimum(high, most[:, 0]))
    return {name: a.reshape(runs, steps, *tail) for name, a in zip(names, ends, strict=True)}


def of_change(view: View, change: Change, spectrum: UpdateSpectrum, settings: IntruderParameters) -> Arrays:
    """Sizes, ranks, subspaces and entries of Δ."""
    fields = {
        "delta_norm": "norm_update",
        "delta_noise_floor": "noise_floor",
        "unchanged_fraction": "unchanged",
        "changed_fraction_above_noise": "changed_above_noise",
        "sign_flip_fraction": "sign_flips",
        "top_entry_share": "top_share",
        "top_entry_share_above_noise": "top_share_above_noise",
    }
    arrays = {name: _gather(view, change, field) for name, field in fields.items()}
    base, tuned, inner = (_gather(view, change, field) for field in ("norm_base", "norm_tuned", "inner"))
    arrays["relative_change"] = _ratio(arrays["delta_norm"], base)
    arrays["cosine_to_base"] = np.clip(_ratio(inner, base * tuned), -1.0, 1.0)
    width = len(settings.subspace_ranks)
    arrays["delta_in_base_subspace"] = _gather(view, change, "subspace_share", (2, width))
    arrays["delta_in_base_subspace_chance"] = _matrix_table(
        view, lambda info: _subspace_chance(info, settings.subspace_ranks), (2, width)
    )
    return arrays | _ranks(view, spectrum, arrays["delta_noise_floor"])


def spectral_ratio(view: View, statistic: Intruders, norms: np.ndarray, settings: IntruderParameters) -> np.ndarray:
    """‖Δ‖₂ / σ_k(W0), (run, step, matrix, k); NaN beyond p and where σ_k is 0. norms: ‖Δ‖₂ (run, step, matrix)."""
    columns = np.array(settings.ks) - 1
    return _ratio(norms[..., None], _gather(view, statistic, "sigma_base", columns.shape, lambda v: v[:, columns]))


def of_matched(
    view: View, statistic: IntruderMatched, settings: IntruderParameters
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Counts (run, matched_to, matrix, 2, ks, epsilons), scores (run, matched_to, matrix, 2, k) and norms (run,
    matched_to, matrix) at matched norms, and the compared runs in the order of `matched_to`.

    `matched_to` begins with the geometric mean, the one norm common to all.
    """
    results = list(run_results(view, statistic))
    compared = tuple(run.id for run in compared_runs(view) if run.role == "run")
    place, own = {run: index for index, run in enumerate(compared)}, run_index(view)
    k, runs, matrices = settings.scored, len(view.runs), len(view.matrices)
    scores = np.full((runs, len(compared) + 1, matrices, 2, k), np.nan)
    norms = np.full((runs, len(compared) + 1, matrices), np.nan)
    for matrix, result, members in results:
        columns = np.array([*(1 + place[run] for run in members), 0])
        for row, run in enumerate(members):
            if run in own:
                norms[own[run], columns, matrix] = result["norm"]
                scores[own[run], columns, matrix] = result["similarity"][row][:, :, :k]
    counts = count_below(scores, settings.ks, settings.epsilons)
    counts[np.isnan(scores).all(axis=-1)] = np.nan
    return counts, scores, norms, compared


def of_runs(view: View, statistic: ChangeAcrossRuns, settings: IntruderParameters) -> Arrays:
    """Cosines, mask overlaps and φ between runs, with their chances."""
    runs, matrices, grid = len(view.runs), len(view.matrices), len(settings.phi_ranks)
    others = {run.id: index for index, run in enumerate(compared_runs(view))}
    fields = {"delta_cosine": "cosine", "mask_iou": "mask_iou", "mask_iou_above_noise": "mask_iou_above_noise"}
    arrays = {name: np.full((runs, len(others), matrices), np.nan) for name in fields}
    arrays["lora_phi"] = np.full((runs, len(others), matrices, grid, grid), np.nan)
    where = run_index(view)
    for matrix, result, members in run_results(view, statistic):
        rows = [row for row, run in enumerate(members) if run in where]
        at = np.ix_([where[members[row]] for row in rows], [others[run] for run in members], [matrix])
        for name, field in (*fields.items(), ("lora_phi", "phi")):
            arrays[name][at] = result[field][rows][:, :, None]
    if np.isnan(arrays["lora_phi"]).all():
        del arrays["lora_phi"]  # no two adapters: nothing of the LoRA paper applies
    else:
        arrays["lora_phi_chance"] = _matrix_table(
            view, lambda info: _phi_chance(info, settings.phi_ranks), (grid, grid)
        )
    s = settings.top_fraction
    return arrays | {"mask_iou_chance": np.array(s / (2 - s))}


def compared_runs(view: View) -> tuple[RunInfo, ...]:
    """The view's runs, and after them those of other groups of the report that have some of its matrices."""
    every = {run.id: run for matrix in view.matrices for run in view.compared(matrix)}
    return tuple({run.id: run for run in (*view.runs, *every.values())}.values())


def delta_spectra(view: View, statistic: UpdateSpectrum, variable: Variable) -> dict[str, xr.Dataset]:
    """run → `delta_sigma` (step, matrix, mode): every σ of Δ, NaN beyond a matrix's own number of them."""
    stacks = list(view.stacks(statistic, "sigma"))
    datasets = {}
    for index, run in enumerate(view.runs):
        chosen = [(stack, np.flatnonzero(stack.run_index == index)) for stack in stacks]
        chosen = [(stack, rows) for stack, rows in chosen if rows.size]
        if not chosen:
            continue
        steps = np.unique(np.concatenate([stack.step_index[rows] for stack, rows in chosen]))
        matrices = np.unique(np.concatenate([stack.matrix_index[rows] for stack, rows in chosen]))
        modes = max(stack.values.shape[1] for stack, _ in chosen)
        sigma = np.full((steps.size, matrices.size, modes), np.nan)
        for stack, rows in chosen:
            at = np.searchsorted(steps, stack.step_index[rows]), np.searchsorted(matrices, stack.matrix_index[rows])
            sigma[(*at, slice(0, stack.values.shape[1]))] = stack.values[rows]
        attributes = {"long_name": variable.long_name, "units": variable.units}
        coordinates = {
            "step": view.steps[steps],
            "matrix": [view.matrices[i] for i in matrices],
            "mode": np.arange(1, modes + 1),
        }
        datasets[run.id] = xr.Dataset({variable.name: (variable.dims, sigma, attributes)}, coordinates)
    return datasets


def notes_on_bases(view: View) -> tuple[str, ...]:
    """A base that is only a run's own first saved step, said for each run."""
    return tuple(
        f"{run.id} is compared with its own first saved step ({run.base}): changes before that step are not seen, "
        "and its intruders are not relative to a pretrained model. Give the real base with --base."
        for run in view.runs
        if run.role == "run" and run.base_kind == "first_step"
    )


def base_kinds(view: View) -> np.ndarray:
    """(run,) how each base was chosen; empty where there is none."""
    return np.array([run.base_kind or "" for run in view.runs], dtype=object)


def _angles(view: View, statistic: Intruders, settings: IntruderParameters) -> np.ndarray:
    k, rows = settings.scored, np.array(settings.ks) - 1
    return _gather(view, statistic, "angles", (2, len(rows), k), lambda v: v[:, :, rows, :k])


def _ranks(view: View, statistic: UpdateSpectrum, floors: np.ndarray) -> Arrays:
    names = ("effective_rank", "stable_rank")
    arrays = {f"delta_{name}": np.full(floors.shape, np.nan) for name in names}
    above = {f"delta_{name}_above_noise": np.full(floors.shape, np.nan) for name in (*names, "rank")}
    largest = np.full(floors.shape, np.nan)
    for stack in view.stacks(statistic, "sigma"):
        at = _where(stack)
        for name, values in zip(names, spectral_ranks(stack.values), strict=False):
            arrays[f"delta_{name}"][at] = values
        floor = floors[at]
        for name, values in zip((*names, "rank"), spectral_ranks(stack.values, floor[:, None]), strict=True):
            above[f"delta_{name}_above_noise"][at] = np.where(np.isnan(floor), np.nan, values)
        largest[at] = stack.values.max(axis=1, initial=0.0)
    return arrays | above | {"delta_spectral_norm": largest}


def _gather(
    view: View,
    statistic: Statistic,
    field: str,
    tail: tuple[int, ...] = (),
    cut: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> np.ndarray:
    """(run, step, matrix, *tail), NaN where there is no result; `cut` brings a larger stored extent to the tail."""
    array = np.full((len(view.runs), len(view.steps), len(view.matrices), *tail), np.nan)
    for stack in view.stacks(statistic, field):
        array[_where(stack)] = cut(stack.values)
    return array


def _where(stack: Stack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return stack.run_index, stack.step_index, stack.matrix_index


def run_results(view: View, statistic: Statistic) -> Iterator[tuple[int, Result, tuple[str, ...]]]:
    """(matrix index, result, the runs in it, in order), for each group of runs that one unit compared.

    A unit's rows are positional, in the order of the report's runs; its field `members` tells one group from another.
    """
    for index, matrix in enumerate(view.matrices):
        groups: dict[bytes, tuple[Result, list[str]]] = {}
        for run in view.compared(matrix):
            result = view.get(statistic, run=run.id, matrix=matrix) if run.role == "run" else None
            if result is not None:
                groups.setdefault(result["members"].tobytes(), (result, []))[1].append(run.id)
        for result, runs in groups.values():
            if len(runs) == result["members"].size:
                yield index, result, tuple(runs)


def run_index(view: View) -> dict[str, int]:
    return {run.id: index for index, run in enumerate(view.runs)}


def _matrix_table(view: View, make: Callable[[MatrixInfo], np.ndarray], tail: tuple[int, ...]) -> np.ndarray:
    """(matrix, *tail) of what follows from a matrix's shape; NaN where the runs have it in different shapes."""
    known: dict[tuple[int, int], np.ndarray] = {}
    table = np.full((len(view.matrices), *tail), np.nan)
    for index, matrix in enumerate(view.matrices):
        infos = {info.shape: info for run in view.runs if (info := view.info(run.id, matrix)) is not None}
        if len(infos) != 1:
            continue
        shape, info = infos.popitem()
        if min(shape) > 0:
            if shape not in known:
                known[shape] = make(info)
            table[index] = known[shape]
    return table


def _dimensions(view: View) -> np.ndarray:
    """(run, matrix, side): m and n, NaN where the run has no such matrix."""
    table = np.full((len(view.runs), len(view.matrices), 2), np.nan)
    for row, run in enumerate(view.runs):
        for column, matrix in enumerate(view.matrices):
            if (info := view.info(run.id, matrix)) is not None:
                table[row, column] = info.shape
    return table


def notes_on_shapes(view: View) -> tuple[str, ...]:
    """Matrices that share a name but no shape: what depends on the shape alone is not given for them."""
    shapes = {
        matrix: {info.shape for run in view.runs if (info := view.info(run.id, matrix)) is not None}
        for matrix in view.matrices
    }
    mixed = [matrix for matrix, found in shapes.items() if len(found) > 1]
    if not mixed:
        return ()
    example = " and ".join(f"{m} × {n}" for m, n in sorted(shapes[mixed[0]]))
    return (
        f"{len(mixed)} matrices have different shapes in different runs (as {mixed[0]}: {example}): their "
        "chance_similarity and the other chances that follow from a shape are NaN. Analyse such runs separately.",
    )


def _chance(info: MatrixInfo) -> np.ndarray:
    return np.array([chance_similarity(dimension, min(info.shape)) for dimension in info.shape])


def _subspace_chance(info: MatrixInfo, ranks: tuple[int, ...]) -> np.ndarray:
    return np.array([[r / d if r <= min(info.shape) else math.nan for r in ranks] for d in info.shape])


def _phi_chance(info: MatrixInfo, ranks: tuple[int, ...]) -> np.ndarray:
    width = info.shape[1]
    return np.array([[max(i, j) / width if max(i, j) <= width else math.nan for j in ranks] for i in ranks])


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
