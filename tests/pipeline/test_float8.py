"""float8 storage, as a run and as the base of one, through every statistic that needs no data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import pipeline

SHAPES = {"self_attn.q_proj": (24, 16), "self_attn.k_proj": (24, 16), "mlp.up_proj": (40, 24)}
EXACT = {
    "weight_spectra": ("spectral_norm", "frobenius_norm", "stable_rank", "effective_rank"),
    "intruder_dimensions": (
        "similarity",
        "sigma",
        "relative_change",
        "cosine_to_base",
        "delta_stable_rank",
        "delta_cosine",
    ),
}
"""Variables that depend on the values of the entries alone, not on the dtype that holds them."""


def write(folder: Path, tensors: dict[str, torch.Tensor], name: str = "pytorch_model.bin", **config: object) -> None:
    folder.mkdir(parents=True)
    torch.save(tensors, folder / name)
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))


def write_archive(folder: Path, stored: torch.dtype, values: torch.dtype) -> Path:
    """Full runs, LoRA on a base, DoRA, and mixed pairs, all of values that `values` holds, stored as `stored`."""
    drawn = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=drawn)).to(values).to(torch.float32)

    base = {f"model.layers.0.{n}.weight": normal(*shape) for n, shape in SHAPES.items()}
    write(folder / "base", {n: t.to(stored) for n, t in base.items()})
    for run, dtype in (("full", stored), ("wide", torch.float32)):
        for step in (1, 2):
            moved = {n: (t + normal(*t.shape, scale=0.2)).to(values).float() for n, t in base.items()}
            write(folder / run / f"checkpoint-{step}", {n: t.to(dtype) for n, t in moved.items()})
    for run, dtype, use_dora in (("lora", torch.float32, False), ("lora8", stored, False), ("dora", stored, True)):
        factors = {}
        for n, (rows, columns) in SHAPES.items():
            module = f"base_model.model.model.layers.0.{n}"
            factors[f"{module}.lora_A.weight"] = normal(2, columns).to(dtype)
            factors[f"{module}.lora_B.weight"] = normal(rows, 2).to(dtype)
            if use_dora:
                factors[f"{module}.lora_magnitude_vector"] = base[f"model.layers.0.{n}.weight"].norm(dim=1)
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": use_dora}
        write(folder / run / "checkpoint-1", factors, "adapter_model.bin", **settings)
    return folder


def analysed(archive: Path, store: Path) -> xr.DataTree:
    opened = pipeline.ingest(archive, store)
    failures = pipeline.compute(opened).failures
    # A DoRA checkpoint is not merged into a whole model, in any dtype: it has no trajectory.
    assert {(f.run, f.statistic) for f in failures} <= {("a/dora", "weight_trajectory")}, failures
    return pipeline.assemble(opened)


def measured(variable: xr.DataArray) -> np.ndarray:
    return np.isfinite(variable.values) if variable.dtype.kind == "f" else np.ones(variable.shape, bool)


def test_every_statistic_of_float8_is_that_of_the_same_values_in_float32(tmp_path: Path) -> None:
    dtype = torch.float8_e4m3fn
    wide = analysed(write_archive(tmp_path / "f32" / "a", torch.float32, dtype), tmp_path / "wide.zarr")
    narrow = analysed(write_archive(tmp_path / "f8" / "a", dtype, dtype), tmp_path / "narrow.zarr")
    for node in ("weight_spectra", "intruder_dimensions", "intrinsic_dimension"):
        for name, variable in wide[node].data_vars.items():
            if measured(variable).any():
                assert measured(narrow[node][name]).any(), f"{node}/{name} has no value"
    for node, names in EXACT.items():
        for name in names:
            xr.testing.assert_allclose(narrow[node][name], wide[node][name], rtol=1e-9, atol=1e-12)
    assert float(narrow["intruder_dimensions"]["relative_change"].sel(run="a/full").min()) > 0.05
