"""σ(t) of the modes of a few matrices, each followed by its vectors through crossings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import xarray as xr

from pipeline.report import groups
from pipeline.report.figures import Image, canvas, image, place
from pipeline.report.look import Look
from pipeline.report.spectra import NODE
from pipeline.report.style import DASHES, SEQUENTIAL, literal

SHOWN = 12
"""Modes of a panel: those that become greatest."""


@dataclass(frozen=True)
class ModeCurves:
    """σ of the modes of one matrix in one run: `steps` (step,), `sigma` (step, mode), NaN where a mode is not seen."""

    run: str
    matrix: str
    steps: np.ndarray
    sigma: np.ndarray


def modes_of(tree: xr.DataTree, run: str, matrix: str) -> ModeCurves | None:
    """The modes over the steps, the greatest first, or None where the report follows none."""
    followed = [dataset["mode_sigma"] for dataset in groups.datasets(tree, NODE) if "mode_sigma" in dataset]
    array = groups.of_run(followed, run)
    if array is None or matrix not in array["matrix"].values:
        return None
    sigma = array.sel(run=run, matrix=matrix).transpose("step", "mode").values.astype(float)
    seen = ~np.isnan(sigma)
    steps, modes = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if steps.size < 2:
        return None
    modes = modes[np.argsort(-np.nanmax(sigma[:, modes], axis=0), kind="stable")][:SHOWN]
    return ModeCurves(run, matrix, np.asarray(array["step"].values)[steps], sigma[np.ix_(steps, modes)])


def modes_figure(curves: Sequence[ModeCurves], look: Look) -> Image | None:
    """σ against the step, a curve per mode, a panel per (run, matrix). None without one."""
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with canvas(3.85 * columns, 3.1 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        place(figure, columns, rows, top=0.45, apart=(0.75, 1.05))
        for axes, one in zip(panels, curves, strict=False):
            shades = mpl.colormaps[SEQUENTIAL](np.linspace(0.0, 0.85, one.sigma.shape[1]))
            for order, (sigma, shade) in enumerate(zip(one.sigma.T, shades, strict=True)):
                seen = np.flatnonzero(~np.isnan(sigma))
                if seen[0] > 0:  # born within the run
                    axes.plot(one.steps[seen[0]], sigma[seen[0]], color=shade, marker="o", markersize=4)
                axes.plot(
                    one.steps[seen], sigma[seen], color=shade, linestyle=DASHES[order % len(DASHES)], linewidth=1.3
                )
            look.steps.draw(axes, one.steps)
            axes.set_ylabel("σ of the mode")
            axes.set_ylim(bottom=0)
            axes.set_title(
                f"{literal(look.matrix(one.matrix), 38)}\n{literal(look.label(one.run), 38)}", loc="left", fontsize=9
            )
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        said = "; ".join(
            f"{look.matrix(c.matrix)} in {c.run}, greatest mode {c.sigma[:, 0][~np.isnan(c.sigma[:, 0])][-1]:.3g}"
            for c in curves
        )
        caption = (
            f"Up to {SHOWN} modes of each matrix that moved most: of those seen at two or more steps, the ones "
            "that become greatest (dark: greatest). A mode is followed by its singular vectors, so curves can cross; a "
            "dot marks a mode that joins the leading ones later. Modes seen at a single step are not drawn, even where "
            "they are the greatest σ of that step; the spectra show every σ."
        )
        return image(figure, "Singular modes over steps", caption, f"Line plots of σ over steps: {said}.")
