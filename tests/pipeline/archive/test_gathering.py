"""Files that metadata make one run: best and last ones, hashes, dates, several forms of names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import open_archive
from tests.pipeline.archive.folders import only_run, save, steps, weights
from tests.pipeline.archive.tiny import PROPERTY


def _save(path: Path, **beside: Any) -> None:
    save(path, {"model": weights(sum(path.name.encode())), **beside})


def _found(root: Path) -> dict[str, list[int]]:
    archive = open_archive(root, name="zoo")
    assert archive.problems == ()
    return steps(archive)


@pytest.mark.parametrize(
    ("files", "key", "unit"),
    [
        ({"checkpoint.pth.tar": 90, "model_best.pth.tar": 85}, "epoch", "epoch"),
        ({"checkpoint_final.pth": 1000, "checkpoint_best.pth": 850}, "current_epoch", "epoch"),
        ({"best.ckpt": 100, "last.ckpt": 300}, "global_step", "step"),
        ({"3f2a9c81.pt": 100, "9bd01e55.pt": 200, "e77c0aa1.pt": 300}, "step", "step"),
        ({"model_20230101-120000.pt": 100, "model_20230102-090000.pt": 200}, "iteration", "step"),
        ({"net_1672531200.pt": 1, "net_1672534800.pt": 2}, "epoch", "epoch"),
    ],
)
def test_files_whose_names_say_nothing_are_one_run_by_their_metadata(
    tmp_path: Path, files: Mapping[str, int], key: str, unit: str
) -> None:
    for name, number in files.items():
        _save(tmp_path / "run" / name, **{key: number})
    run = only_run(tmp_path)
    assert [(one.step, one.step_unit) for one in run.checkpoints] == [(n, unit) for n in sorted(files.values())]


def test_models_of_other_words_or_architectures_stay_runs_of_their_own(tmp_path: Path) -> None:
    for name, step in (("generator", 100), ("discriminator", 200)):
        _save(tmp_path / "words" / f"{name}.pt", step=step)
    for name, width in (("3f2a9c81", 3), ("9bd01e55", 5)):
        save(tmp_path / "nets" / f"{name}.pt", {"model": {"fc.weight": torch.ones(width, 4)}, "step": width})
    assert _found(tmp_path) == {
        "zoo/words/discriminator": [200],
        "zoo/words/generator": [100],
        "zoo/nets/3f2a9c81": [3],
        "zoo/nets/9bd01e55": [5],
    }


def test_files_that_say_the_same_step_and_hold_other_weights_stay_apart(tmp_path: Path) -> None:
    for name in ("best", "last"):
        _save(tmp_path / f"{name}.pt", epoch=100)
    assert _found(tmp_path) == {"zoo/best": [100], "zoo/last": [100]}


def test_names_of_two_forms_are_one_run_by_the_updates_in_both(tmp_path: Path) -> None:
    files = {"checkpoint1": 400, "checkpoint2": 800, "checkpoint_1_300": 300, "checkpoint_2_600": 600}
    for name, updates in files.items():
        _save(tmp_path / f"{name}.pt", optimizer_history=[{"num_updates": updates}])
    save(tmp_path / "checkpoint_last.pt", torch.load(tmp_path / "checkpoint2.pt"))
    assert _found(tmp_path) == {"zoo": [300, 400, 600, 800]}


def test_the_best_by_a_score_belongs_to_the_one_series_of_its_folder(tmp_path: Path) -> None:
    for epoch in (11, 12):
        _save(tmp_path / "one" / f"epoch_{epoch}.pth")
    save(tmp_path / "one" / "best_bbox_mAP_epoch_11.pth", torch.load(tmp_path / "one" / "epoch_11.pth"))
    _save(tmp_path / "two" / "checkpoint_200.pth", step=200)
    _save(tmp_path / "two" / "best_model_90.pth", step=90)
    _save(tmp_path / "three" / "step_200.pth")
    _save(tmp_path / "three" / "best_encoder_100.pth")
    assert _found(tmp_path) == {
        "zoo/one": [11, 12],
        "zoo/two": [90, 200],
        "zoo/three": [200],
        "zoo/three/best_encoder_100": [0],
    }


@PROPERTY
@given(name=st.sampled_from(["final", "best", "latest", "main"]), same=st.booleans(), told=st.booleans())
def test_a_folder_called_final_beside_step_folders_is_a_step_a_copy_or_a_run_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, name: str, same: bool, told: bool
) -> None:
    root = tmp_path_factory.mktemp("zoo")
    for step in (10, 20):
        _save(root / f"step-{step}" / "lit_model.pth", step_count=step)
    if same:
        save(root / name / "lit_model.pth", torch.load(root / "step-20" / "lit_model.pth"))
    else:
        save(root / name / "lit_model.pth", {"model": weights(7), **({"step_count": 25} if told else {})})
    own = {"zoo": [10, 20, 25]} if told else {"zoo": [10, 20], f"zoo/{name}": [0]}
    assert _found(root) == ({"zoo": [10, 20]} if same else own)


def test_lightnings_second_last_file_is_a_copy_or_a_step_of_the_run(tmp_path: Path) -> None:
    for epoch, step in ((3, 400), (7, 800)):
        _save(tmp_path / f"epoch={epoch}-step={step}.ckpt", global_step=step)
    save(tmp_path / "last-v1.ckpt", torch.load(tmp_path / "epoch=3-step=400.ckpt"))
    _save(tmp_path / "last.ckpt", global_step=900)
    assert _found(tmp_path) == {"zoo": [400, 800, 900]}


@pytest.mark.parametrize(
    "names",
    [
        ("model_20230101-120000", "model_20230102-120000", "model_20230103-120000"),
        ("CKPT+2023-01-01+12-00-00+00", "CKPT+2023-01-01+13-30-10+00", "CKPT+2023-01-02+12-00-00+00"),
        ("epoch=0.5", "epoch=1.0", "epoch=1.5"),
        ("3f2a9c81", "9bd01e55", "e77c0aa1"),
    ],
)
@pytest.mark.parametrize("as_folders", [True, False])
def test_checkpoints_that_only_dates_hashes_or_fractions_tell_apart_get_one_hint(
    tmp_path: Path, names: tuple[str, ...], as_folders: bool
) -> None:
    for name in names:
        _save(tmp_path / name / "model.ckpt" if as_folders else tmp_path / f"{name}.ckpt")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {f"zoo/{name}": [0] for name in names}
    (hint,) = archive.hints
    assert hint.startswith("zoo: 3 runs with one checkpoint each") and "rename them with their steps" in hint
