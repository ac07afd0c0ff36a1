"""A path given as a base means the weights at that path, whatever else holds the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipeline.analysis.library import ingest
from pipeline.archive import open_archive, open_tensors, resolve_base
from pipeline.archive.bases import ResolvedBase
from tests.pipeline.archive.tiny import PROPERTY

SHAPE = (6, 4)


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype("f4")


def save(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"fc.weight": weights(seed)}, folder / "model.safetensors")
    return folder


def trainer(folder: Path, own: int | None, steps: tuple[int, ...] = (3, 6, 9)) -> Path:
    """A Trainer's folder: each step's weights have its number as their seed, the folder's own have `own`."""
    for step in steps:
        save(folder / f"checkpoint-{step}", step)
    if own is not None:
        save(folder, own)
    return folder


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    save_file(
        {
            "base_model.model.fc.lora_A.weight": np.ones((2, SHAPE[1]), "f4"),
            "base_model.model.fc.lora_B.weight": np.ones((SHAPE[0], 2), "f4"),
        },
        folder / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def base_of(root: Path, run: str = "lora", given: str | None = None, hub: Path | None = None) -> ResolvedBase:
    archive = open_archive(root, "a")
    (chosen,) = (r for r in archive.runs if r.id == f"a/{run}")
    return resolve_base(chosen, archive, given=given, environ={"HF_HOME": str(hub or root / "none")})


def seed_of(base: ResolvedBase) -> int:
    """Which weights a base holds: the seed that they were made with."""
    with open_tensors(base.checkpoint) as tensors:
        read = tensors.read("fc.weight")
    return next(seed for seed in range(200) if np.array_equal(weights(seed), read))


@pytest.mark.parametrize("inside", [True, False], ids=["in the archive", "outside it"])
@pytest.mark.parametrize("own", [3, 6, 9, 77, None])
@pytest.mark.parametrize("at", ["", "checkpoint-6", "model.safetensors", "checkpoint-6/model.safetensors"])
def test_a_path_is_the_weights_at_that_path(at: str, own: int | None, inside: bool, tmp_path: Path) -> None:
    if at == "model.safetensors" and own is None:
        return
    sft = trainer(tmp_path / ("x/sft" if inside else "sft"), own)
    adapter(tmp_path / "x" / "lora" / "checkpoint-10", str(sft / at))
    expected = 6 if "6" in at else 9 if own is None else own
    found = base_of(tmp_path / "x")
    assert (seed_of(found), found.kind) == (expected, "adapter_config")
    assert seed_of(base_of(tmp_path / "x", given=str(sft / at))) == expected
    if inside and own in (3, 6, 9, None):  # the archive's own step of these weights, not one more run
        assert found.reference == f"a/sft@{expected}"


def test_one_entry_that_differs_is_another_checkpoint(tmp_path: Path) -> None:
    sft = trainer(tmp_path / "x" / "sft", None)
    changed = weights(9)
    changed[0, 0] += 1
    save_file({"fc.weight": changed}, sft / "model.safetensors")
    adapter(tmp_path / "x" / "lora" / "checkpoint-10", str(sft))
    with open_tensors(base_of(tmp_path / "x").checkpoint) as tensors:
        assert np.array_equal(tensors.read("fc.weight"), changed)


def test_a_run_alone_is_its_folder_and_a_run_with_a_step_is_that_step(tmp_path: Path) -> None:
    trainer(tmp_path / "x" / "sft", own=3)
    adapter(tmp_path / "x" / "lora" / "checkpoint-10", "nowhere/at-all")
    seeds = {given: seed_of(base_of(tmp_path / "x", given=given)) for given in ("sft", "a/sft", "sft@last", "sft@6")}
    assert seeds == {"sft": 3, "a/sft": 3, "sft@last": 9, "sft@6": 6}


@pytest.mark.parametrize("start", ["adapter", "archive", "here"])
def test_a_relative_path_is_looked_for_at_the_adapter_then_the_archive_then_here(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "x"
    lora = adapter(root / "lora" / "checkpoint-10", "models/tiny")
    monkeypatch.chdir(tmp_path)
    places = {"here": tmp_path, "archive": root, "adapter": lora}
    for seed, (name, place) in enumerate(places.items(), start=1):
        save(place / "models" / "tiny", seed)
        if name == start:
            break
    assert seed_of(base_of(root)) == seed


def test_a_link_to_a_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    sft = trainer(tmp_path / "x" / "sft", own=None)
    (tmp_path / "latest").symlink_to(sft / "checkpoint-6")
    adapter(tmp_path / "x" / "lora" / "checkpoint-10", str(tmp_path / "latest"))
    assert base_of(tmp_path / "x").reference == "a/sft@6"


def hub(root: Path, seed: int) -> Path:
    model = root / "hub" / "models--org--tiny"
    save(model / "snapshots" / "abc", seed)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    return root


def test_the_path_in_a_config_goes_before_a_sibling_and_a_sibling_before_the_hub(tmp_path: Path) -> None:
    root = tmp_path / "x"
    lora = adapter(root / "lora" / "checkpoint-10", "org/tiny")
    cache = hub(tmp_path / "hf", 3)
    assert (seed_of(base_of(root, hub=cache)), base_of(root, hub=cache).kind) == (3, "hf_cache")
    save(root / "base", 2)
    assert (seed_of(base_of(root, hub=cache)), base_of(root, hub=cache).kind) == (2, "sibling")
    save(lora / "org" / "tiny", 1)
    assert (seed_of(base_of(root, hub=cache)), base_of(root, hub=cache).kind) == (1, "adapter_config")


def test_a_path_that_is_gone_gives_way_to_the_sibling(tmp_path: Path) -> None:
    adapter(tmp_path / "x" / "lora" / "checkpoint-10", str(tmp_path / "deleted"))
    save(tmp_path / "x" / "base", 2)
    assert base_of(tmp_path / "x").kind == "sibling"


@pytest.mark.parametrize(("named", "noted"), [(2, False), (5, True)])
def test_a_sibling_with_other_weights_than_the_config_s_path_is_noted(named: int, noted: bool, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", named)
    save(tmp_path / "x" / "base", 2)
    adapter(tmp_path / "x" / "lora" / "checkpoint-10", str(tmp_path / "elsewhere"))
    found = base_of(tmp_path / "x")
    assert (seed_of(found), found.kind) == (named, "adapter_config")
    assert bool(found.notes) is noted
    store = ingest(tmp_path / "x", tmp_path / "store.zarr")
    notes = " ".join(store.run("x/lora").notes)
    assert ("holds other weights and is not used" in notes) is noted
    assert not store.run("x/lora").problems


@PROPERTY
@given(
    steps=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    own=st.none() | st.integers(0, 120),
)
def test_whatever_a_folder_duplicates_its_own_weights_are_the_base(
    steps: list[int], own: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("any")
    sft = trainer(root / "sft", own, tuple(steps))
    adapter(root / "x" / "lora" / "checkpoint-1", str(sft))
    assert seed_of(base_of(root / "x")) == (max(steps) if own is None else own)
