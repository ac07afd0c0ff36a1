"""What the first paragraph says of pathways: the grouped ratio of each run's last checkpoint, beside chance."""

from __future__ import annotations

import numpy as np
import xarray as xr

from pipeline.report.blocks import number
from pipeline.report.look import Look

NODE = "pathway_metrics"
THRESHOLD = 0.7
SAID = 3


def preferred(dataset: xr.Dataset) -> xr.Dataset:
    """One probe (the first), the threshold nearest 0.7, the first grouping."""
    at = dataset.isel(probe=0)
    if "threshold" in at.dims:
        at = at.isel(threshold=int(np.argmin(np.abs(at["threshold"].values - THRESHOLD))))
    return at.isel(column=0) if at.sizes.get("column") else at.drop_dims("column", errors="ignore")


def sentence(tree: xr.DataTree, look: Look) -> str:
    """The runs of smallest ratio with their intervals; empty where the report has no grouped ratio."""
    dataset = tree[NODE].to_dataset() if NODE in tree.children else xr.Dataset()
    if "grouped_distance_ratio" not in dataset:
        return ""
    at = preferred(dataset)
    found = []
    for run in map(str, at["run"].values):
        ratio, low, high = (at[f"grouped_distance_ratio{end}"].sel(run=run).values for end in ("", "_low", "_high"))
        there = np.flatnonzero(np.isfinite(ratio))
        if there.size:
            found.append((float(ratio[there[-1]]), float(low[there[-1]]), float(high[there[-1]]), run))
    if not found:
        return ""
    said = [
        f"{number(ratio)}{f' ({number(low)} to {number(high)})' if np.isfinite(low) else ''} in {look.label(run)}"
        for ratio, low, high, run in sorted(found)[:SAID]
    ]
    few = f"; the {SAID} smallest of {len(found)} runs" if len(found) > SAID else ""
    column = str(at["column"].values) if "column" in at.coords else "group"
    return f"Pathway distance within a {column} over that between them (1 is chance{few}): {', '.join(said)}."
