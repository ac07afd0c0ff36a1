"""On request: what α would be by chance, how far it would scatter, and α at one fixed aspect ratio.

α without its null is not evidence: most small Gaussian matrices fall into the band that is called 'good'.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from analyzers import costs
from analyzers.contract import Cache, Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import ParameterError
from analyzers.linalg.gaussian_null import alpha_position, gaussian_eigenvalues, scaled_gaussian_eigenvalues
from analyzers.linalg.powerlaw import MINIMUM_VALUES, fit_power_law, hill_alpha
from analyzers.linalg.spectra import EPSILON
from analyzers.linalg.windows import window_sigma
from analyzers.weight_spectra.noise_bulk import not_a_weight
from analyzers.weight_spectra.statistics import PowerLawFit, Sigma, input_of, matrix_of, no_entries, shape_of

_NULL_VERSION = 1


@dataclass(frozen=True)
class AlphaNull(Statistic):
    """Where α stands among matrices of iid Gaussian entries of this shape.

    Fields (0-d): `percentile`, 0–100: the share of null α below the observed one; `p_value`, one-sided: the probability
    of so small an α, small when noise of this shape hardly ever has so heavy a tail. Both by the tabulated law, or by
    so many `draws` at exactly this shape: then ties count half, and p = (1 + #{null α ≤ α}) / (1 + draws).
    """

    draws: int | None = None
    minimum_values: int = MINIMUM_VALUES

    name = "alpha_null"
    version = 2
    scope = "matrix"
    reads_matrices = False

    def inputs(self) -> tuple[Statistic, ...]:
        """The observed fit."""
        return (PowerLawFit(self.minimum_values),)

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the fit does; and products have another null."""
        return not_a_weight(info, "the Gaussian null") or PowerLawFit(self.minimum_values).refuses(info, reference)

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A look into the table, or the draws once per shape."""
        sides = {tuple(sorted(info.shape)) for info in infos}
        null = costs.python(sum((2.6e-6 * m + 8.1e-9 * m * m + 1e-3) * (self.draws or 0) for m, _ in sides))
        look = Cost.of([costs.python(sum(1e-4 + 1e-9 * min(info.shape) for info in infos))], 1 << 26, "cpu")
        return replace(look, once=(null,) if self.draws else ())

    def compute(self, unit: Unit, context: Context) -> Result:
        """Compares with the null of the shape."""
        alpha = float(input_of(unit.only, "power_law")["alpha"])
        M, N = sorted(shape_of(unit.only))
        if not math.isfinite(alpha):
            return {"percentile": np.array(math.nan), "p_value": np.array(math.nan)}
        if self.draws is None:
            position = alpha_position(M, N, alpha)
            return {"percentile": np.array(100.0 * position), "p_value": np.array(position)}
        null = alpha_null(M, N, self.draws, self.minimum_values, context.cache)
        percentile = 50.0 * float((null < alpha).mean() + (null <= alpha).mean())
        p_value = (1 + int((null <= alpha).sum())) / (1 + len(null))
        return {"percentile": np.array(percentile), "p_value": np.array(p_value)}


@dataclass(frozen=True)
class AlphaInterval(Statistic):
    """How far α scatters from matrix to matrix: `low`, `high` (0-d).

    Not a 95 % interval: it holds the median α of like matrices in 82 to 100 %, measured (docs/calibration.md).

    Simulated are matrices diag(σ) G / √N of this shape, G iid Gaussian, whose expected W Wᵀ has the observed
    eigenvalues: they repel as those of a matrix do. α is fitted to each with xmin chosen anew. The simulation spreads
    the spectrum and so is centred elsewhere; only its relative scatter is used:
    [low, high] = 1 + (α − 1) · (2.5 %, 97.5 % quantile of (α* − 1) / median(α* − 1)).
    """

    draws: int = 100
    minimum_values: int = MINIMUM_VALUES

    name = "alpha_interval"
    version = 1
    scope = "matrix"
    reads_matrices = False

    def inputs(self) -> tuple[Statistic, ...]:
        """σ and the fit to them."""
        return (Sigma(), PowerLawFit(self.minimum_values))

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """As the fit does; products are not simulated."""
        reason = PowerLawFit(self.minimum_values).refuses(info, reference)
        return reason or not_a_weight(info, "the simulated interval")

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """One M × M factorization per draw."""
        sides = [min(info.shape) for info in infos]
        work = [costs.Work("eigvalsh", self.draws * 4 * m**3, m) for m in sides]
        interpreter = costs.python(1e-3 * self.draws * len(sides))
        return Cost.of([*work, interpreter], 4 * 8 * max(sides, default=0) ** 2, "cpu")

    def compute(self, unit: Unit, context: Context) -> Result:
        """Simulates, fits and rescales."""
        sigma = input_of(unit.only, "sigma")["sigma"]
        alpha = float(input_of(unit.only, "power_law")["alpha"])
        if not math.isfinite(alpha):
            return {"low": np.array(math.nan), "high": np.array(math.nan)}
        generator = np.random.default_rng(context.seed)
        low, high = alpha_interval(sigma, alpha, max(shape_of(unit.only)), self.draws, generator, self.minimum_values)
        return {"low": np.array(low), "high": np.array(high)}


@dataclass(frozen=True)
class Farms(Statistic):
    """α of the concatenated eigenvalues of windows of one aspect ratio: one fit, not an average of alphas.

    Fields (0-d): `alpha`, `n_values`, `rows`, `columns` (of a window, short side first). `estimator` "hill" is the
    authors' (xmin in the middle of the spectrum), "ks" the scan over xmin. Source: FARMS, 2506.06280.
    """

    aspect: float = 1.0
    per_side: int = 10
    rows: int | None = None
    estimator: Literal["hill", "ks"] = "hill"

    name = "farms"
    version = 2
    scope = "matrix"

    def __post_init__(self) -> None:
        if not self.aspect >= 1 or self.per_side < 1 or (self.rows is not None and self.rows < 2):
            given = f"{self.aspect}, {self.per_side} and {self.rows}"
            raise ParameterError(f"aspect and per_side must be at least 1 and rows at least 2, not {given}")

    def refuses(self, info: MatrixInfo, reference: MatrixInfo | None) -> str | None:
        """Windows are cut from dense weights."""
        return no_entries(info) or not_a_weight(info, "windowing")

    def compute(self, unit: Unit, context: Context) -> Result:
        """See `analyzers.linalg.windows.window_sigma`."""
        content = matrix_of(unit.only).content()
        sigma, (rows, columns) = window_sigma(content, self.aspect, self.per_side, self.rows)
        floor = max(rows, columns) * EPSILON * float(sigma[0])
        if self.estimator == "hill":
            alpha = float(hill_alpha(sigma[None], np.array([floor]))[0])
        else:
            alpha = fit_power_law(sigma, floor).alpha
        return {
            "alpha": np.array(alpha),
            "n_values": np.array(len(sigma)),
            "rows": np.array(rows),
            "columns": np.array(columns),
        }


def alpha_interval(
    sigma: np.ndarray,
    alpha: float,
    N: int,
    draws: int,
    generator: np.random.Generator,
    minimum_values: int = MINIMUM_VALUES,
) -> tuple[float, float]:
    """The bounds of `AlphaInterval` for σ (M,), descending, whose fit is `alpha`."""
    spectra = scaled_gaussian_eigenvalues(sigma / sigma[0], N, draws, generator)
    scatter = _alphas(np.sqrt(spectra), N, minimum_values) - 1.0
    low, high = np.nanquantile(scatter, [0.025, 0.975]) / np.nanmedian(scatter)
    return float(1 + (alpha - 1) * low), float(1 + (alpha - 1) * high)


def alpha_null(M: int, N: int, draws: int, minimum_values: int, cache: Cache) -> np.ndarray:
    """α of `draws` Gaussian matrices of this shape, ascending, without NaN; seeded by the shape."""
    make = functools.partial(_alpha_null, M, N, draws, minimum_values)
    return cache("alpha_null", f"{M}x{N}:{draws}:{minimum_values}:v{_NULL_VERSION}", make)["alpha"].numpy()


@functools.lru_cache(maxsize=256)
def _alpha_null(M: int, N: int, draws: int, minimum_values: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng([M, N, draws, _NULL_VERSION])
    alphas = _alphas(np.sqrt(gaussian_eigenvalues(M, N, draws, generator)), N, minimum_values)
    return {"alpha": torch.from_numpy(np.sort(alphas[np.isfinite(alphas)]))}


def _alphas(sigma: np.ndarray, N: int, minimum_values: int) -> np.ndarray:
    """α of each row of σ (draws, M) above N ε64 σ1."""
    floor = N * EPSILON
    return np.array([fit_power_law(row, floor * float(row.max()), minimum_values).alpha for row in sigma])
