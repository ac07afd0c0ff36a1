"""The analyzer `weight_spectra`: which statistics it asks for, and every variable derived from them.

Formulas, conventions and pitfalls of each variable: docs/weight-spectra.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from analyzers.contract import Analyzer, AnalyzerParameters, Derived, Stack, Statistic, Variable, View
from analyzers.linalg.gaussian_null import benjamini_yekutieli
from analyzers.weight_spectra import scalars, welore
from analyzers.weight_spectra.full_spectra import full_spectra
from analyzers.weight_spectra.matrices import Matrices, matrices_of
from analyzers.weight_spectra.modes import ModeOverlap, ModeOverlapTwo, of_modes
from analyzers.weight_spectra.noise_bulk import MarchenkoPasturFit, ShuffledSigma
from analyzers.weight_spectra.nulls import AlphaInterval, AlphaNull, Farms
from analyzers.weight_spectra.statistics import METHODS, Entries, PowerLawFit, Sigma
from analyzers.weight_spectra.variables import VARIABLES

SMALL_TAIL = 50
"""A power-law fit to fewer eigenvalues is flagged."""
CHUNK_VALUES = 1 << 20
"""Singular values that are derived from at a time."""

_ENTRY_VARIABLES = {
    "ggd_shape": "ggd_shape",
    "ggd_scale": "ggd_scale",
    "noise_floor": "noise_floor",
    "mantissa_bits": "mantissa_bits",
    "entry_mean": "mean",
    "entry_std": "std",
    "entry_kurtosis": "kurtosis",
    "zero_fraction": "zero_fraction",
}
_BULK_VARIABLES = {"mp_scale": "s", "mp_edge": "edge", "n_spikes": "n_spikes", "mp_ks": "ks", "mp_ks_p": "ks_p"}


class WeightSpectraParameters(AnalyzerParameters):
    """Settings of ``--set weight_spectra.KEY=VALUE``; those that are false by default cost more and are on request."""

    energies: tuple[float, ...] = Field((0.5, 0.9, 0.95, 0.99), description="levels of energy_rank")
    quantiles: int = Field(64, ge=2, le=4096, description="number of quantiles of each spectrum")
    bulk_scales: tuple[Literal["total", "median", "shuffle"], ...] = Field(
        ("total", "median"), description="choices of the noise's s; 'shuffle' factorizes a shuffled matrix as well"
    )
    mp_draws: int | None = Field(
        None, ge=50, description="judge mp_ks by so many Gaussian matrices of each shape, not by the tabulated law"
    )
    welore_reduction: float = Field(0.5, gt=0, lt=1, description="total rank reduction that WeLore's threshold reaches")
    track: bool = Field(True, description="modes and spikes are followed over the steps of each run")
    track_modes: int = Field(10, ge=1, description="how many leading modes of each step are followed")
    track_side: int = Field(1024, ge=1, description="longest shorter side of a dense matrix that is followed")
    alpha_null: bool = Field(False, description="α among Gaussian matrices of the shape")
    alpha_null_draws: int | None = Field(
        None, ge=20, description="judge α by so many Gaussian matrices of each shape, not by the tabulated law"
    )
    alpha_interval: bool = Field(False, description="α's scatter among simulated matrices of the shape")
    alpha_interval_draws: int = Field(100, ge=20)
    farms: bool = Field(False, description="α at one aspect ratio")
    farms_aspect: float = Field(1.0, ge=1, description="columns over rows of a window")
    farms_windows: int = Field(10, ge=1, description="at most so many windows along each side")
    farms_rows: int | None = Field(None, ge=2, description="rows of a window; the largest that fits if not given")
    farms_estimator: Literal["hill", "ks"] = "hill"
    shuffled: bool = Field(False, description="the spectrum after a seeded shuffle of the entries")


class WeightSpectra(Analyzer):
    """Singular values of every matrix at every step, and what they say."""

    name = "weight_spectra"
    version = 3
    variables: ClassVar[tuple[Variable, ...]] = VARIABLES
    Parameters: ClassVar[type[AnalyzerParameters]] = WeightSpectraParameters

    def statistics(self) -> Sequence[Statistic]:
        """σ, entry-wise facts, the power-law fit, the bulk fit and the modes' overlaps; and what was asked for."""
        asked: list[Statistic] = [Sigma(), Entries(), PowerLawFit(), self._bulk()]
        if self.parameters.track:
            asked += self._overlaps()
        if self.parameters.alpha_null:
            asked.append(self._null())
        if self.parameters.alpha_interval:
            asked.append(self._interval())
        if self.parameters.farms:
            asked.append(self._farms())
        if self.parameters.shuffled:
            asked.append(ShuffledSigma())
        return asked

    def derive(self, view: View) -> Derived:
        """All variables of what is stored; a variable that was not asked for is left out."""
        matrices = matrices_of(view)
        stacks = list(view.stacks(Sigma(), "sigma"))
        alpha = view.array(PowerLawFit(), "alpha")
        arrays = self._from_sigma(view, matrices, stacks, alpha)
        arrays |= self._from_fit(view, matrices, arrays["spectral_norm"], alpha)
        arrays |= {name: view.array(Entries(), field) for name, field in _ENTRY_VARIABLES.items()}
        arrays["mantissa_bits"] = np.where(arrays["mantissa_bits"] < 0, np.nan, arrays["mantissa_bits"])
        arrays |= self._from_bulk(view, arrays["spectral_norm"])
        arrays |= self._on_request(view)
        notes = self._notes(arrays, matrices)
        if self.parameters.track:
            modes, said = of_modes(view, self._overlaps(), stacks, arrays["mp_edge"])
            arrays, notes = arrays | modes, notes + said
        dataset = view.dataset(arrays, [variable for variable in VARIABLES if variable.name in arrays])
        shuffled = list(view.stacks(ShuffledSigma(), "sigma")) if self.parameters.shuffled else []
        runs = full_spectra(view, stacks, shuffled)
        return Derived(self._with_coordinates(dataset), runs, notes)

    def _from_sigma(
        self, view: View, matrices: Matrices, stacks: Sequence[Stack], alpha: np.ndarray
    ) -> dict[str, np.ndarray]:
        shape = (len(view.runs), len(view.steps), len(view.matrices))
        energies = np.array(self.parameters.energies)
        levels = np.linspace(0.0, 1.0, self.parameters.quantiles)
        arrays: dict[str, np.ndarray] = {
            "energy_rank": np.full((*shape, len(energies)), np.nan),
            "sigma_quantile": np.full((*shape, len(levels)), np.nan),
        }
        method = view.array(Sigma(), "method")
        gram = method == METHODS.index("gram")
        noise_floor = view.array(Entries(), "noise_floor")
        thresholds, arrays["welore_matrices"] = self._welore_thresholds(view, matrices, stacks)
        arrays["welore_threshold"] = thresholds
        for stack in _chunks(stacks):
            at = (stack.run_index, stack.step_index, stack.matrix_index)
            p, N = matrices.sizes(stack)
            values = scalars.spectral_scalars(stack.values, p, N, noise_floor[at])
            values["log_alpha_norm"] = scalars.log_alpha_norm(stack.values, alpha[at])
            flag = scalars.condition_flag(stack.values, p, N, gram[at])
            values["condition_flag"] = np.where(np.isnan(method[at]), np.nan, flag)
            dense = matrices.is_weight(stack)
            t = np.where(dense, thresholds[at[0], at[1]], np.nan)
            values["welore_rank_reduction"] = welore.reduction(welore.normalised(stack.values), t)
            low = values["welore_rank_reduction"]
            values["welore_class"] = np.where(np.isfinite(low), (low >= 0.5).astype(float), np.nan)
            for name, value in values.items():
                arrays.setdefault(name, np.full(shape, np.nan))[at] = value
            arrays["energy_rank"][at] = scalars.energy_rank(stack.values, energies)
            arrays["sigma_quantile"][at] = scalars.quantiles(stack.values, levels)
        for name in ("spectral_norm", "log_alpha_norm"):
            arrays.setdefault(name, np.full(shape, np.nan))
        return arrays

    def _welore_thresholds(
        self, view: View, matrices: Matrices, stacks: Sequence[Stack]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One t per checkpoint, over all its dense weights of at least two singular values, and how many these are:
        both (run, step)."""
        found: dict[tuple[int, int], list[tuple[Stack, np.ndarray]]] = {}
        for stack in stacks:
            usable = matrices.is_weight(stack) & (stack.values.shape[1] > 1)
            for place, rows in _checkpoints(stack, np.flatnonzero(usable)):
                found.setdefault(place, []).append((stack, rows))
        thresholds = np.full((len(view.runs), len(view.steps)), np.nan)
        count = thresholds.copy()
        for place, parts in found.items():
            spectra = [welore.normalised(stack.values[rows]).ravel() for stack, rows in parts]
            thresholds[place] = welore.threshold(spectra, self.parameters.welore_reduction)
            count[place] = sum(len(rows) for _, rows in parts)
        return thresholds, count

    def _from_fit(
        self, view: View, matrices: Matrices, spectral_norm: np.ndarray, alpha: np.ndarray
    ) -> dict[str, np.ndarray]:
        arrays = {name: view.array(PowerLawFit(), name) for name in ("xmin", "ks_distance", "n_tail")}
        arrays["alpha"], n_tail = alpha, arrays["n_tail"]
        measured = np.isfinite(spectral_norm)
        with np.errstate(divide="ignore", invalid="ignore"):
            arrays["alpha_sigma_iid"] = (alpha - 1) / np.sqrt(n_tail)
            arrays["alpha_hat"] = alpha * 2 * np.log10(spectral_norm)
        refused = (matrices.p < PowerLawFit().minimum_values)[:, None]  # the others have a fit, or have lost it
        flag = np.where(np.isfinite(n_tail), np.where(n_tail == 0, 2.0, n_tail < SMALL_TAIL), np.nan)
        arrays["alpha_flag"] = np.where(measured, np.where(refused, 2.0, flag), np.nan)
        arrays["n_tail"] = np.where(n_tail > 0, n_tail, np.nan)
        return arrays

    def _from_bulk(self, view: View, spectral_norm: np.ndarray) -> dict[str, np.ndarray]:
        count = len(self.parameters.bulk_scales)
        arrays = {name: _last_axis(view.array(self._bulk(), field), count) for name, field in _BULK_VARIABLES.items()}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            upper = _last_axis(view.array(self._bulk(), "upper"), count)
            arrays["mp_softrank"] = upper / spectral_norm[..., None] ** 2
        p = arrays["mp_ks_p"]
        return arrays | {"mp_ks_p_adjusted": _adjusted(p), "mp_ks_p_tested": _tested(p)}

    def _on_request(self, view: View) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        if self.parameters.alpha_null:
            arrays["alpha_null_percentile"] = view.array(self._null(), "percentile")
            arrays["alpha_p_value"] = view.array(self._null(), "p_value")
            p = arrays["alpha_p_value"][..., None]
            arrays["alpha_p_value_adjusted"], arrays["alpha_p_value_tested"] = _adjusted(p)[..., 0], _tested(p)[..., 0]
        if self.parameters.alpha_interval:
            bounds = [view.array(self._interval(), field) for field in ("low", "high")]
            arrays["alpha_interval"] = np.stack(bounds, axis=-1)
        if self.parameters.farms:
            arrays["farms_alpha"] = view.array(self._farms(), "alpha")
        return arrays

    def _with_coordinates(self, dataset: xr.Dataset) -> xr.Dataset:
        coordinates: dict[str, object] = {
            "energy": np.array(self.parameters.energies),
            "quantile": np.linspace(0.0, 1.0, self.parameters.quantiles),
            "bulk_scale": list(self.parameters.bulk_scales),
            "bound": ["low", "high"],
            "mode": np.arange(1, dataset.sizes.get("mode", 0) + 1),
        }
        present = {name: (name, values) for name, values in coordinates.items() if name in dataset.dims}
        return dataset.assign_coords(present)

    def _notes(self, arrays: dict[str, np.ndarray], matrices: Matrices) -> tuple[str, ...]:
        notes = []
        for what, chosen in (("weights", matrices.weight), ("products of factors", ~matrices.weight)):
            flags = np.where(chosen[:, None, :], arrays["alpha_flag"], np.nan)
            small, none = int((flags == 1).sum()), int((flags == 2).sum())
            if small or none:
                notes.append(
                    f"alpha: of {int(np.isfinite(flags).sum())} spectra of {what} {small} have fewer than {SMALL_TAIL} "
                    f"eigenvalues in the tail (alpha_flag 1), and {none} too few for a fit (alpha_flag 2, NaN)."
                )
        if not self.parameters.alpha_null:
            notes.append(
                "alpha has no null beside it; request one with --set weight_spectra.alpha_null=true: "
                "most small Gaussian matrices have an alpha between 2 and 6."
            )
        adjusted = arrays["mp_ks_p_adjusted"]
        judged = int(np.isfinite(adjusted).sum())
        if judged:
            rejected = int((adjusted < 0.05).sum())
            notes.append(
                f"n_spikes: the bulk is not Marchenko–Pastur (mp_ks_p_adjusted < 0.05) in {rejected} of {judged} fits; "
                "there a spike is not evidence of signal against noise."
            )
        return tuple(notes)

    def _bulk(self) -> MarchenkoPasturFit:
        return MarchenkoPasturFit(tuple(self.parameters.bulk_scales), self.parameters.mp_draws)

    def _overlaps(self) -> tuple[ModeOverlap, ModeOverlapTwo]:
        chosen = self.parameters.track_modes, self.parameters.track_side
        return ModeOverlap(*chosen), ModeOverlapTwo(*chosen)

    def _null(self) -> AlphaNull:
        return AlphaNull(self.parameters.alpha_null_draws)

    def _interval(self) -> AlphaInterval:
        return AlphaInterval(self.parameters.alpha_interval_draws)

    def _farms(self) -> Farms:
        chosen = self.parameters
        return Farms(chosen.farms_aspect, chosen.farms_windows, chosen.farms_rows, chosen.farms_estimator)


def _chunks(stacks: Sequence[Stack]) -> Iterator[Stack]:
    """The same in pieces of a bounded number of values, so that temporaries stay small."""
    for stack in stacks:
        step = max(1, CHUNK_VALUES // max(stack.values.shape[1], 1))
        for start in range(0, len(stack.values), step):
            part = slice(start, start + step)
            yield Stack(stack.run_index[part], stack.step_index[part], stack.matrix_index[part], stack.values[part])


def _checkpoints(stack: Stack, rows: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """The given rows of a stack by checkpoint: ((run index, step index), rows)."""
    if not len(rows):
        return
    runs, steps = stack.run_index[rows], stack.step_index[rows]
    order = np.lexsort((steps, runs))
    moved = (np.diff(runs[order]) != 0) | (np.diff(steps[order]) != 0)
    for part in np.split(order, np.flatnonzero(moved) + 1):
        yield (int(runs[part[0]]), int(steps[part[0]])), rows[part]


def _adjusted(p: np.ndarray) -> np.ndarray:
    """p (run, step, matrix, test) corrected over the matrices of each checkpoint, each test by itself."""
    adjusted = np.full(p.shape, np.nan)
    for run, step in np.argwhere(np.isfinite(p).any(axis=(2, 3))):
        for test in range(p.shape[3]):
            adjusted[run, step, :, test] = benjamini_yekutieli(p[run, step, :, test])
    return adjusted


def _tested(p: np.ndarray) -> np.ndarray:
    """p (run, step, matrix, test) → (run, step, test): how many matrices are tested, NaN where none is."""
    count = np.isfinite(p).sum(axis=2)
    return np.where(count, count, np.nan)


def _last_axis(array: np.ndarray, count: int) -> np.ndarray:
    """(run, step, matrix, count): a view without a single result knows no value shape."""
    return array if array.ndim == 4 else np.full((*array.shape[:3], count), np.nan)
