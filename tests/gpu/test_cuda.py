"""The CUDA path gives the CPU's numbers. Run on a machine with a GPU: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from analyzers.linalg.spectra import singular_values
from tests.end_to_end.archives import write_adapter, write_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]

# float64 factorizations on both devices: their backward errors are a small multiple of ε p σ1, some 1e-13 σ1 here.
TOLERANCE = 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (384, 1536), (64, 3)])
def test_singular_values_are_those_of_the_cpu(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    on_cpu = singular_values(matrix).sigma.cpu().numpy()
    on_cuda = singular_values(matrix.cuda()).sigma.cpu().numpy()
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=0, atol=TOLERANCE * on_cpu[0])


def test_a_whole_report_is_that_of_the_cpu(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write_run(folder / "one", 3)
    write_adapter(folder / "lora", 10, base="../../one/checkpoint-0")
    trees = {}
    for device in ("cpu", "cuda"):
        store = pipeline.ingest(folder, tmp_path / f"{device}.zarr")
        summary = pipeline.compute(store, device=device, workers=1)
        assert summary.complete and summary.measured > 0
        trees[device] = pipeline.assemble(store)
    compared = 0
    for group in ("weight_spectra", "intruder_dimensions"):
        cpu, cuda = (trees[d][group].to_dataset() for d in ("cpu", "cuda"))
        for name in cpu.data_vars:
            if cpu[name].dtype.kind == "f":
                scale = float(np.nanmax(np.abs(cpu[name].values), initial=1.0))
                np.testing.assert_allclose(
                    cuda[name].values, cpu[name].values, rtol=1e-6, atol=1e-6 * scale, err_msg=f"{group}/{name}"
                )
                compared += 1
    assert compared > 40
