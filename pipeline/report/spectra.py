"""The full singular values that a report keeps per run, and their figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import xarray as xr

from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.plots import plain_log_ticks
from pipeline.report.style import DASHES, SEQUENTIAL, literal

NODE = "weight_spectra"


@dataclass(frozen=True)
class DrawnSpectrum:
    """σ of one matrix in one run: `steps` (step,), `sigma` (step, rank), descending along rank, only measured steps."""

    run: str
    matrix: str
    steps: np.ndarray
    sigma: np.ndarray


def spectrum_of(tree: xr.DataTree, run: str, matrix: str) -> DrawnSpectrum | None:
    """σ over the steps, or None where the report holds none."""
    for dataset in run_datasets(tree, run):
        array = dataset.get("sigma")
        if array is None or array.ndim != 3 or not {"step", "matrix"} <= set(array.coords):
            continue
        names = [str(v) for v in array["matrix"].values]
        if matrix not in names:
            continue
        (rank,) = (d for d in array.dims if d not in ("step", "matrix"))
        sigma = array.isel(matrix=names.index(matrix)).transpose("step", rank).values.astype(float)
        measured = ~np.isnan(sigma).all(axis=1)
        width = int((~np.isnan(sigma)).any(axis=0).sum())
        if measured.any():
            return DrawnSpectrum(run, matrix, np.asarray(dataset["step"].values)[measured], sigma[measured][:, :width])
    return None


def run_datasets(tree: xr.DataTree, run: str) -> list[xr.Dataset]:
    """The datasets under /weight_spectra/runs that belong to a run (its id stands in their attribute `run`)."""
    if NODE not in tree.children or "runs" not in tree[NODE].children:
        return []
    return [
        _plain_dims(child.to_dataset())
        for name, child in tree[f"{NODE}/runs"].children.items()
        if str(child.attrs.get("run", name)) == run
    ]


def spectral_changes(dataset: xr.Dataset) -> dict[str, float]:
    """Matrix → ‖σ(last) − σ(first)‖ / ‖σ(first)‖ between its first and last measured step, where they differ.

    By Mirsky's inequality never more than ‖W(last) − W(first)‖_F / ‖W(first)‖_F.
    """
    array = dataset.get("sigma")
    if array is None or array.ndim != 3 or not {"step", "matrix"} <= set(array.dims) or "matrix" not in dataset.coords:
        return {}
    (rank,) = (d for d in array.dims if d not in ("step", "matrix"))
    sigma = array.transpose("matrix", "step", rank).values.astype(float)
    changes: dict[str, float] = {}
    for name, rows in zip(dataset["matrix"].values, sigma, strict=True):
        measured = np.flatnonzero(~np.isnan(rows).all(axis=1))
        if measured.size < 2:
            continue
        first, last = np.nan_to_num(rows[measured[0]]), np.nan_to_num(rows[measured[-1]])
        scale = float(np.linalg.norm(first))
        if scale > 0:
            changes[str(name)] = float(np.linalg.norm(last - first)) / scale
    return changes


def _plain_dims(dataset: xr.Dataset) -> xr.Dataset:
    """With the dims called step and matrix also where they have entries of their own (`assembly.fitted`)."""
    own = {f"run_{dim}": dim for dim in ("step", "matrix") if f"run_{dim}" in dataset.dims}
    return dataset.drop_vars([dim for dim in own.values() if dim in dataset.coords]).rename(own)


def spectra_figure(spectra: Sequence[DrawnSpectrum], look: Look) -> Image | None:
    """σ against rank at up to five steps, one panel per (run, matrix). None without a spectrum."""
    if not spectra:
        return None
    columns = min(3, len(spectra))
    rows = -(-len(spectra) // columns)
    with canvas(3.85 * columns, 3.1 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        place(figure, columns, rows, top=0.45, apart=(0.75, 1.05))
        for axes, spectrum in zip(panels, spectra, strict=False):
            chosen = np.unique(np.linspace(0, spectrum.steps.size - 1, min(5, spectrum.steps.size)).round().astype(int))
            shades = mpl.colormaps[SEQUENTIAL](np.linspace(0.0, 0.85, chosen.size))
            lowest = np.inf
            for order, (index, shade) in enumerate(zip(chosen, shades, strict=True)):
                sigma = spectrum.sigma[index]
                sigma = sigma[np.isfinite(sigma) & (sigma > 1e-7 * np.nanmax(sigma))]
                lowest = min(lowest, sigma.min(initial=np.inf))
                axes.plot(
                    np.arange(1, sigma.size + 1),
                    sigma,
                    color=shade,
                    linestyle=DASHES[order % len(DASHES)],
                    linewidth=1.4,
                    marker="o" if sigma.size == 1 else "",  # of one value there is no line
                    markersize=4,
                    label=look.steps.at(int(spectrum.steps[index])),
                )
            axes.set_title(
                f"{literal(look.matrix(spectrum.matrix), 38)}\n{literal(look.label(spectrum.run), 38)}",
                loc="left",
                fontsize=9,
            )
            axes.set_xscale("log")
            if np.isfinite(lowest):
                axes.set_yscale("log")
            plain_log_ticks(axes)
            axes.set_xlabel("rank i")
            axes.set_ylabel("singular value σᵢ")
            axes.legend(fontsize=7.5, loc="lower left")
        for axes in panels[len(spectra) :]:
            axes.set_visible(False)
        names = "; ".join(f"{look.matrix(s.matrix)} in {s.run}" for s in spectra)
        caption = (
            "Singular values of the matrices that moved most, at a few steps (dark: early, light: late). "
            "Values below 10⁻⁷ σ₁ are not drawn."
        )
        return image(figure, "Spectra over steps", caption, f"Line plots of singular values by rank: {names}.")
