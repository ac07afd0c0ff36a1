"""Spectra of the weights that an adapter makes, beside those of full fine-tunes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file, save_file

import pipeline
from pipeline.report.compare import key_variables, series_of
from tests.end_to_end.archives import SHAPES, weights, write_adapter, write_run

ANALYZERS = ("weight_spectra", "merged_spectra")
STEPS = (10, 20)


def merged(adapter: Path, base: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """W0 + 2 B A, as PEFT merges, in float64; what the adapter leaves alone as it is."""
    factors = load_file(adapter / "adapter_model.safetensors")
    model = {name: value.astype(np.float64) for name, value in base.items()}
    for name in base:
        module = "base_model.model." + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in factors:
            model[name] += 2 * factors[f"{module}.lora_B.weight"].astype(float) @ factors[f"{module}.lora_A.weight"]
    return model


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a full run, an adapter run, and a full run `baked` whose checkpoints are the adapter's, merged."""
    root = tmp_path_factory.mktemp("merged") / "runs"
    base = weights(0)
    (root / "base").mkdir(parents=True)
    save_file(base, root / "base" / "model.safetensors")
    write_run(root / "full", list(STEPS), seed=3)
    for step in STEPS:
        adapter = write_adapter(root / "lora", step, str(root / "base"), seed=step)
        baked = root / "baked" / f"checkpoint-{step}"
        baked.mkdir(parents=True)
        save_file({n: v.astype(np.float32) for n, v in merged(adapter, base).items()}, baked / "model.safetensors")
    return root


@pytest.fixture(scope="module")
def tree(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    return report(archive, tmp_path_factory.mktemp("store") / "S.zarr", {})


def report(archive: Path, store_path: Path, settings: dict) -> xr.DataTree:
    store = pipeline.ingest(archive, store_path)
    assert pipeline.compute(store, ANALYZERS, settings, workers=1).complete
    return pipeline.assemble(store, ANALYZERS, settings)


def test_sigma_is_that_of_the_merged_weights(archive: Path, tree: xr.DataTree) -> None:
    spectra = next(
        node.to_dataset()
        for node in tree["merged_spectra/runs"].children.values()
        if node.attrs["run"].endswith("lora")
    )
    for step in STEPS:
        model = merged(archive / "lora" / f"checkpoint-{step}", weights(0))
        for name in (n for n, shape in SHAPES.items() if len(shape) == 2):
            got = spectra["sigma"].sel(step=step, matrix=name.removesuffix(".weight")).values
            # σ from a float64 Gram: an error of ε64 σ1²/σ, and σ ≥ 1e-3 σ1 here
            np.testing.assert_allclose(got, np.linalg.svd(model[name], compute_uv=False), rtol=1e-9)


def test_every_variable_is_that_of_a_full_checkpoint_with_the_merged_weights(tree: xr.DataTree) -> None:
    node = tree["merged_spectra"].to_dataset()
    runs = {str(run).rpartition("/")[2]: str(run) for run in node["run"].values}
    lora, baked = node.sel(run=runs["lora"], step=list(STEPS)), node.sel(run=runs["baked"], step=list(STEPS))
    # `baked` is rounded to float32: 1e-7 of an entry. These are of the storage, and not of the values:
    of_storage = {"noise_floor", "mantissa_bits"}
    compared = [name for name in node.data_vars if name not in of_storage and "matrix" in node[name].dims]
    assert {"alpha", "stable_rank", "effective_rank", "n_spikes", "mp_ks_p"} <= set(compared)
    for name in compared:
        np.testing.assert_allclose(lora[name].values, baked[name].values, rtol=2e-5, atol=1e-6, err_msg=name)


def test_the_node_holds_w_and_never_a_delta(tree: xr.DataTree) -> None:
    node = tree["merged_spectra"].to_dataset()
    roles = {str(run).rpartition("/")[2]: set(node["role"].sel(run=run).values.tolist()) for run in node["run"].values}
    assert roles["lora"] == {"merged"}
    assert roles["full"] == roles["baked"] == {"weight"}
    full = next(str(run) for run in node["run"].values if str(run).endswith("full"))
    of_weights = tree["weight_spectra"].to_dataset().sel(run=full, matrix=node["matrix"])
    np.testing.assert_array_equal(node["alpha"].sel(run=full), of_weights["alpha"])


def test_weights_and_deltas_never_share_a_figure(tree: xr.DataTree) -> None:
    adapter = next(str(run) for run in tree["weight_spectra"]["run"].values if str(run).endswith("lora"))
    drawn: dict[tuple[str, str], list[set[str]]] = {}
    for variable in key_variables(tree):
        if variable.name == "stable_rank":
            drawn.setdefault((variable.node, variable.label), []).append({one.run for one in series_of(variable)})
    weights, deltas = drawn["weight_spectra", "weights"], drawn["weight_spectra", "adapters’ Δ"]
    assert deltas == [{adapter}] and len(weights) == 1 and adapter not in weights[0]
    assert adapter in drawn["merged_spectra", "adapters on their base"][0]


def test_a_matrix_above_the_side_is_listed_with_the_setting(archive: Path, tmp_path: Path) -> None:
    tree = report(archive, tmp_path / "S.zarr", {"merged_spectra": {"side": 16}})
    assert not tree["merged_spectra"].data_vars
    reasons = tree["archive/skipped"].to_dataset()["reason"].values.tolist()
    assert any("merged_spectra.side=16" in reason for reason in reasons)


def test_without_an_adapter_nothing_is_measured_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "full", 2)
    store = pipeline.ingest(tmp_path / "runs", tmp_path / "S.zarr")
    assert pipeline.compute(store, ["weight_spectra"], {}, workers=1).measured > 0
    assert pipeline.compute(store, ANALYZERS, {}, workers=1).measured == 0
    assert not pipeline.assemble(store, ANALYZERS, {})["merged_spectra"].data_vars


def test_an_adapter_whose_base_is_missing_is_told(tmp_path: Path) -> None:
    write_adapter(tmp_path / "runs" / "lora", 10, "nobody/nothing")
    tree = report(tmp_path / "runs", tmp_path / "S.zarr", {})
    skipped = tree["archive/skipped"].to_dataset().to_dataframe()
    of_merged = skipped[skipped["statistic"] == "merged_sigma"]
    assert len(of_merged) and of_merged["reason"].str.contains("adapter's Δ").all(), json.dumps(skipped.to_dict("list"))
