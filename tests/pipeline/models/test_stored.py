"""Whole checkpoints as statistics see them: every parameter, adapters merged, and keys that follow the content."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from analyzers.contract import Analyzer, Context, Derived, Result, Statistic, Unit, Variable, View
from analyzers.models import Material
from pipeline.archive import open_archive
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.plan import plan
from pipeline.compute.run import compute
from pipeline.models.stored import open_checkpoint
from pipeline.store import Store
from pipeline.units.addresses import Because, CheckpointRef
from pipeline.units.keys import identity
from pipeline.units.reasons import LISTED
from pipeline.units.selection import Selection
from pipeline.units.sources import Sources
from tests.pipeline.compute.stores import LAYERS, ingest, small_store, weights, write_adapter, write_full


def whole(store: Store, run: str, step: int) -> CheckpointRef:
    """The checkpoint by reference; it must be whole."""
    found = Sources(store, Selection()).whole(_id(store, run), step)
    assert isinstance(found, CheckpointRef), found
    return found


def _id(store: Store, name: str) -> str:
    return next(r.id for r in store.runs() if r.id.rsplit("/", 1)[-1] == name)


def test_an_adapters_parameters_are_its_bases_with_the_update_added(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    checkpoint = open_checkpoint(store, whole(store, "lora", 20))
    base = weights(0)
    draw = np.random.default_rng(2)  # as `small_archive` draws the second step
    factors = [(draw.standard_normal((2, 6)), draw.standard_normal((8, 2))) for _ in LAYERS]
    assert {p.name for p in checkpoint.parameters} == set(base)
    for name, (a, b) in zip(LAYERS, factors, strict=True):
        a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
        expected = base[name].astype(np.float64) + 4 / 2 * b @ a
        # One rounding to float32 of a float64 sum: half an ulp of entries below 32.
        np.testing.assert_allclose(checkpoint.read(name).numpy(), expected, rtol=6e-8, atol=1e-7)
    untouched = "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_array_equal(checkpoint.read(untouched).numpy(), base[untouched])


def test_equal_keys_mean_equal_parameters_and_an_update_changes_only_its_own(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    base = {p.name: p.key for p in open_checkpoint(store, whole(store, "base", 0)).parameters}
    tuned = {p.name: p.key for p in open_checkpoint(store, whole(store, "lora", 10)).parameters}
    changed = {name for name in base if base[name] != tuned[name]}
    assert changed == set(LAYERS)
    assert whole(store, "lora", 10).key != whole(store, "lora", 20).key


def test_an_adapter_of_a_fused_tensor_lands_in_its_own_rows(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    fused = draw.standard_normal((24, 8)).astype(np.float32)
    name = "model.layers.0.self_attn.qkv_proj"
    write_full(tmp_path / "runs" / "base", {f"{name}.weight": fused})
    config = '{"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 8, "model_type": "phi3"}'
    (tmp_path / "runs" / "base" / "config.json").write_text(config)
    a, b = draw.standard_normal((2, 8)).astype(np.float32), draw.standard_normal((24, 2)).astype(np.float32)
    write_adapter(tmp_path / "runs" / "lora" / "checkpoint-1", {name: (a, b)}, alpha=2, rank=2)
    ids = {r.id.rsplit("/", 1)[-1]: r.id for r in open_archive(tmp_path / "runs").runs}
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr", {ids["lora"]: (f"{ids['base']}@0", "given")})
    found = Sources(store, Selection()).whole(ids["lora"], 1)
    assert isinstance(found, CheckpointRef)
    merged = open_checkpoint(store, found).read(f"{name}.weight")
    np.testing.assert_allclose(merged.numpy(), fused + b @ a, atol=2e-6)  # float32 sums of 2 products


def test_parameters_have_one_name_whatever_torch_wrapped_them_in(tmp_path: Path) -> None:
    for step, prefix in enumerate(["", "module.", "_orig_mod."], 1):
        state = {prefix + name: values for name, values in weights(step).items()}
        write_full(tmp_path / "runs" / "full" / f"checkpoint-{step}", state)
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr")
    for step in (1, 2, 3):
        checkpoint = open_checkpoint(store, whole(store, "full", step))
        assert {p.name: p.shape for p in checkpoint.parameters} == {n: v.shape for n, v in weights(step).items()}
        np.testing.assert_array_equal(checkpoint.read(LAYERS[0]).numpy(), weights(step)[LAYERS[0]])


def test_equal_updates_of_several_layers_are_all_merged(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    a, b = draw.standard_normal((2, 6)).astype(np.float32), draw.standard_normal((8, 2)).astype(np.float32)
    write_full(tmp_path / "runs" / "base", weights(0))
    modules = [name.removesuffix(".weight") for name in LAYERS]
    write_adapter(tmp_path / "runs" / "lora" / "checkpoint-1", dict.fromkeys(modules, (a, b)), alpha=2, rank=2)
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr", {"runs/lora": ("runs/base@0", "given")})
    checkpoint = open_checkpoint(store, whole(store, "lora", 1))
    for name in LAYERS:
        np.testing.assert_allclose(checkpoint.read(name).numpy(), weights(0)[name] + b @ a, atol=2e-6)


def test_an_adapter_whose_update_is_not_understood_is_no_whole_model_and_fails_nothing(tmp_path: Path) -> None:
    write_full(tmp_path / "runs" / "base", weights(0))
    factors = {LAYERS[0].removesuffix(".weight"): (np.ones((2, 6), np.float32), np.ones((8, 2), np.float32))}
    folder = tmp_path / "runs" / "dora" / "checkpoint-1"
    write_adapter(folder, factors, alpha=2, rank=2)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr", {"runs/dora": ("runs/base@0", "given")})
    reason = Sources(store, Selection()).whole("runs/dora", 1)
    assert isinstance(reason, Because) and reason.code == LISTED and "DoRA" in reason.reason


def test_a_checkpoint_of_which_a_shard_could_not_be_read_is_not_whole(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "checkpoint-1"
    folder.mkdir(parents=True)
    names = list(weights(0))
    for shard, name in enumerate(names):
        save_file({name: weights(0)[name]}, folder / f"model-{shard}.safetensors")
    index = {"metadata": {}, "weight_map": {name: f"model-{shard}.safetensors" for shard, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    broken = folder / "model-1.safetensors"
    broken.write_bytes(broken.read_bytes()[:-40])
    store = ingest(tmp_path / "runs", tmp_path / "S.zarr")
    found = Sources(store, Selection()).whole(store.runs()[0].id, 1)
    assert isinstance(found, Because) and found.wrong
    assert "model-1.safetensors" in found.reason


@dataclass(frozen=True)
class Bulk(Statistic):
    """checkpoint: ‖θ‖ over all parameters."""

    name, version, scope, reads_matrices, reads_models = "test_bulk", 1, "checkpoint", False, True
    material: Material | None = None

    def compute(self, unit: Unit, context: Context) -> Result:
        checkpoint = unit.only.checkpoint
        assert checkpoint is not None and unit.only.matrix is None
        return {
            "norm": np.sqrt(sum(float(checkpoint.read(p.name).double().square().sum()) for p in checkpoint.parameters))
        }


@dataclass(frozen=True)
class Path2(Statistic):
    """run over whole checkpoints: the distance of each step from the first."""

    name, version, scope, over = "test_path", 1, "run", "checkpoint"
    reads_matrices, reads_models = False, True

    def compute(self, unit: Unit, context: Context) -> Result:
        found = [o.checkpoint for o in unit.observations if o.checkpoint is not None]
        flat = [torch.cat([c.read(p.name).double().flatten() for p in c.parameters]) for c in found]
        return {"distance": np.array([float((f - flat[0]).norm()) for f in flat])}


class Whole(Analyzer):
    """Asks for both."""

    name, version = "whole", 1
    variables = (Variable("norm", ("run", "step"), "‖θ‖"),)

    def statistics(self) -> tuple[Statistic, ...]:
        return (Bulk(), Path2())

    def derive(self, view: View) -> Derived:
        raise NotImplementedError


def test_statistics_read_whole_checkpoints_and_a_second_pass_computes_nothing(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    with ThreadCluster(1) as cluster:
        summary = compute(store, [Whole()], cluster)
        assert not summary.failures, summary.failures[0].traceback
    again = plan(store, [Whole()])
    assert again.missing == 0
    units = again.units
    bulk = units.of(next(p for p in units.prepared if p.name == "test_bulk"))
    values = store.statistic("test_bulk").read(bulk.places.values())
    base = weights(0)
    expected = np.sqrt(sum(float((w.astype(np.float64) ** 2).sum()) for w in base.values()))
    (key,) = [key for (run, _, _), key in bulk.places.items() if run == _id(store, "base")]
    value = values[key]
    assert not isinstance(value, str)
    assert abs(float(value["norm"]) - expected) < 1e-12 * expected  # float64 sums of the same numbers


def test_of_a_material_only_kind_and_digest_enter_the_key() -> None:
    here = Bulk(Material("task", "digits", "d1", "/here/task.yml"))
    there = Bulk(Material("task", "renamed", "d1", "/there/task.yml"))
    other = Bulk(Material("task", "digits", "d2", "/here/task.yml"))
    assert identity(here) == identity(there) != identity(other)
