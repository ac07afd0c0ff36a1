"""Runs and steps of folders with several series, and steps that metadata tell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive
from tests.pipeline.archive.folders import only_run, save, steps, weights


def _save(path: Path, **numbers: Any) -> None:
    save(path, {"model": weights(sum(path.stem.encode())), **numbers})


def _found(root: Path, **options: Any) -> dict[str, list[int]]:
    archive = open_archive(root, name="zoo", **options)
    assert archive.problems == ()
    return steps(archive)


def test_three_trainings_in_one_folder_are_three_runs(tmp_path: Path) -> None:
    for series in ("epoch_", "epoch2_", "epoch_no_thresh_"):
        for number in (1, 2, 3):
            save(tmp_path / f"{series}{number}.pt")
    assert _found(tmp_path) == {"zoo": [1, 2, 3], "zoo/epoch2": [1, 2, 3], "zoo/no_thresh": [1, 2, 3]}


def test_words_after_the_number_belong_to_the_series(tmp_path: Path) -> None:
    for number in (100, 200):
        for trailing in ("net_G", "net_D"):
            save(tmp_path / "gan" / f"{number}_{trailing}.pth")
        save(tmp_path / "ema" / f"step_{number}.pt")
        save(tmp_path / "ema" / f"step_{number}_ema.pt")
    save(tmp_path / "lm" / "step-40000" / "model.pt")
    save(tmp_path / "lm" / "step-40000-decay" / "model.pt")
    assert _found(tmp_path) == {
        "zoo/gan/D": [100, 200],
        "zoo/gan/G": [100, 200],
        "zoo/ema": [100, 200],
        "zoo/ema/ema": [100, 200],
        "zoo/lm": [40_000],
        "zoo/lm/decay": [40_000],
    }


def test_a_folder_called_as_a_series_stays_another_run(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / f"step_{number}.pt")
        save(tmp_path / f"step_{number}_ema.pt")
        save(tmp_path / "ema" / f"step_{number}0.pt")
    found = _found(tmp_path)
    assert found["zoo"] == [1, 2] and found["zoo/ema"] == [10, 20] and len(found) == 3


def test_models_of_several_sizes_are_no_steps_and_one_hint_tells_how_to_join_them(tmp_path: Path) -> None:
    for size in (18, 34, 50):
        save(tmp_path / f"resnet{size}.pt", {"fc.weight": torch.ones(size, 4)})
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/resnet18": [0], "zoo/resnet34": [0], "zoo/resnet50": [0]}
    (hint,) = archive.hints
    assert "3 runs with one checkpoint each" in hint
    pattern = hint.partition("--step-pattern ")[2].strip("'")
    assert _found(tmp_path, step_pattern=pattern) == {"zoo": [18, 34, 50]}


def test_seeds_get_no_hint(tmp_path: Path) -> None:
    for seed in range(5):
        save(tmp_path / f"seed{seed}" / "model.pt")
    assert open_archive(tmp_path).hints == ()


def test_a_final_checkpoint_gets_the_step_that_its_epoch_shows(tmp_path: Path) -> None:
    for name, epoch in (("0", 0), ("100", 100), ("200", 200), ("final", 300)):
        _save(tmp_path / f"{name}.pth", epoch=epoch)
    run = only_run(tmp_path)
    assert [(one.step, one.step_unit) for one in run.checkpoints] == [(n, "epoch") for n in (0, 100, 200, 300)]


def test_an_epoch_that_counts_from_zero_shows_the_final_step_too(tmp_path: Path) -> None:
    for name, epoch in (("epoch_10", 9), ("epoch_20", 19), ("final", 29)):
        _save(tmp_path / f"{name}.pt", epoch=epoch)
    assert _found(tmp_path) == {"zoo": [10, 20, 30]}


def test_an_epoch_that_counts_something_else_shows_no_final_step(tmp_path: Path) -> None:
    for name, epoch in (("step_500", 1), ("step_900", 2), ("final", 3)):
        _save(tmp_path / f"{name}.pt", epoch=epoch)
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo": [500, 900], "zoo/final": [3]}
    assert archive.problems == () and any(note.startswith("final.pt: lies beside") for note in archive.notes)


@pytest.mark.parametrize(
    "number",
    [
        lambda n: {"global_step": np.int64(n)},
        lambda n: {"num_timesteps": np.uint16(n)},
        lambda n: {"step": torch.tensor(n)},
        lambda n: {"iteration": float(n)},
        lambda n: {"optimizer_history": [{"num_updates": 1}, {"num_updates": n}]},
        lambda n: {"meta": {"iter": n, "epoch": 1}},
    ],
)
def test_every_form_of_number_in_metadata_is_read(tmp_path: Path, number: Any) -> None:
    for at, name in ((500, "epoch_1"), (1000, "epoch_2"), (1500, "last")):
        _save(tmp_path / f"{name}.pt", **number(at))
    assert _found(tmp_path) == {"zoo": [500, 1000, 1500]}


@pytest.mark.parametrize(
    ("form", "key", "numbers", "expected"),
    [
        ("G_{}", "iteration", {2000: 10, 4000: 20}, [2000, 4000]),  # an epoch under the name of a step
        ("step-{:08d}", "iter_num", {1000: 4000, 2000: 8000}, [1000, 2000]),  # with gradient accumulation
        ("step-{:08d}", "iter_num", {1000: 4000}, [1000]),
        ("model_{:07d}", "iteration", {5000: 4999, 10000: 9999}, [4999, 9999]),
        ("checkpoint{}", "num_updates", {1: 400, 2: 800}, [400, 800]),
        ("epoch_{}", "iter", {11: 8063, 12: 8796}, [8063, 8796]),
    ],
)
def test_of_names_and_metadata_the_finer_count_is_the_clock_unless_the_name_says_step(
    tmp_path: Path, form: str, key: str, numbers: dict[int, int], expected: list[int]
) -> None:
    for number, value in numbers.items():
        _save(tmp_path / f"{form.format(number)}.pt", **{key: value})
    assert _found(tmp_path) == {"zoo": expected}


def test_epochs_in_names_that_the_metadata_confirms_are_the_clock_beside_a_finer_count(tmp_path: Path) -> None:
    for epoch, name in ((1, "epoch_1"), (2, "epoch_2"), (3, "latest")):
        _save(tmp_path / f"{name}.pth", meta={"epoch": epoch, "iter": 7330 * epoch})
    (run,) = open_archive(tmp_path, name="zoo").runs
    assert [(c.step, c.step_unit) for c in run.checkpoints] == [(1, "epoch"), (2, "epoch"), (3, "epoch")]


def test_the_finer_count_is_the_clock_where_epochs_do_not_tell_all_checkpoints_apart(tmp_path: Path) -> None:
    for epoch, updates, name in ((1, 400, "epoch_1"), (2, 800, "epoch_2"), (2, 900, "last")):
        _save(tmp_path / f"{name}.pth", epoch=epoch, iter=updates)
    assert _found(tmp_path) == {"zoo": [400, 800, 900]}


def test_any_key_of_epochs_tells_the_unit(tmp_path: Path) -> None:
    for name, epoch in (("lora-000004", 4), ("lora-000008", 8), ("lora", 10)):
        _save(tmp_path / f"{name}.pt", ss_epoch=epoch, ss_steps=250 * epoch, ss_num_epochs=10)
    run = only_run(tmp_path)
    assert [(one.step, one.step_unit) for one in run.checkpoints] == [(n, "epoch") for n in (4, 8, 10)]


def test_a_lone_file_of_kohya_tells_its_step(tmp_path: Path) -> None:
    file = tmp_path / "style" / "lora.safetensors"
    file.parent.mkdir()
    save_file(weights(), file, metadata={"ss_steps": "1500", "ss_network_dim": "16"})
    assert _found(tmp_path) == {"zoo/style": [1500]}


def test_forms_that_count_different_things_are_different_series(tmp_path: Path) -> None:
    for name in ("model_state_epoch_1.th", "model_step100.pt"):
        save(tmp_path / name)
    archive = open_archive(tmp_path, name="zoo")
    assert {(c.step, c.step_unit) for run in archive.runs for c in run.checkpoints} == {(1, "epoch"), (100, "step")}
    assert len(archive.runs) == 2


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ([f"CKPT+2024-01-02+{hour}-{5 * int(hour)}-12+00" for hour in ("09", "10", "11")], [9, 10, 11]),
        ([f"2024010{day}-10111{day}" for day in (1, 2, 3)], [20240101, 20240102, 20240103]),
    ],
)
def test_folders_called_by_their_time_get_a_hint_whose_option_joins_them(
    tmp_path: Path, folders: list[str], expected: list[int]
) -> None:
    for folder in folders:
        for part in ("classifier", "encoder"):
            save(tmp_path / folder / f"{part}.ckpt")
    (hint,) = open_archive(tmp_path, name="zoo").hints
    option, pattern = shlex.split(hint[hint.index("--step-pattern") : hint.index(", or rename")])
    assert option == "--step-pattern"
    found = _found(tmp_path, step_pattern=pattern)
    assert found == {"zoo/classifier": expected, "zoo/encoder": expected}


def test_folders_called_by_hashes_get_no_option_that_would_not_join_them(tmp_path: Path) -> None:
    for digit in "123":
        save(tmp_path / f"3f2504e0-4f89-11d3-9a0c-0305e82c330{digit}" / "model.pt")
    (hint,) = open_archive(tmp_path, name="zoo").hints
    assert "--step-pattern" not in hint and "rename them with their steps" in hint


def test_settings_of_how_long_to_train_are_no_steps(tmp_path: Path) -> None:
    for number in (1, 2):
        _save(tmp_path / f"epoch_{number}.pt", args={"steps": 100 * number}, config={"epochs": 50})
    assert _found(tmp_path) == {"zoo": [1, 2]}


def test_metadata_that_run_against_the_names_are_no_clock(tmp_path: Path) -> None:
    for name, step in (("epoch_1", 900), ("epoch_2", 100), ("epoch_3", 500)):
        _save(tmp_path / f"{name}.pt", step=step)
    assert _found(tmp_path) == {"zoo": [1, 2, 3]}


def test_weights_of_another_name_beside_steps_are_a_run_of_their_own(tmp_path: Path) -> None:
    for number in (10, 20):
        _save(tmp_path / f"step_{number}.pt", step=number)
        _save(tmp_path / "ac" / f"actor_{number}.pt")
        _save(tmp_path / "ac" / f"critic_{number}.pt")
    _save(tmp_path / "averaged.pt", step=20)
    _save(tmp_path / "ac" / "actor_final.pt", step=30)
    _save(tmp_path / "ac" / "world.pt")
    assert _found(tmp_path) == {
        "zoo": [10, 20],
        "zoo/averaged": [20],
        "zoo/ac/actor": [10, 20, 30],
        "zoo/ac/critic": [10, 20],
        "zoo/ac/world": [0],
    }


def test_models_without_numbers_are_not_mixed_by_the_steps_in_their_metadata(tmp_path: Path) -> None:
    for name, step in (("generator", 10), ("discriminator", 20), ("best", 30), ("last", 40)):
        _save(tmp_path / f"{name}.pt", step=step)
    assert _found(tmp_path) == {"zoo": [30, 40], "zoo/discriminator": [20], "zoo/generator": [10]}


def test_a_second_file_of_lightning_joins_its_series_unless_it_is_a_second_series(tmp_path: Path) -> None:
    for name in ("epoch=0-step=50", "epoch=1-step=100-v1"):
        save(tmp_path / "one" / f"{name}.pt")
        save(tmp_path / "two" / f"{name}.pt")
    save(tmp_path / "two" / "epoch=1-step=100.pt")
    assert _found(tmp_path) == {"zoo/one": [50, 100], "zoo/two": [50, 100], "zoo/two/v1": [100]}


@pytest.mark.parametrize("pattern", [r"it(\d+)of(\w+)", r"it(?P<step>\d+)of(?P<series>\w+)"])
def test_a_pattern_names_the_step_and_the_series(tmp_path: Path, pattern: str) -> None:
    for number in (1, 2):
        for series in ("a", "b"):
            save(tmp_path / f"x-it{number}of{series}.pt")
    assert _found(tmp_path, step_pattern=pattern) == {"zoo/a": [1, 2], "zoo/b": [1, 2]}


def test_named_groups_of_a_pattern_may_stand_in_any_order(tmp_path: Path) -> None:
    for number in (1, 2):
        for series in ("a", "b"):
            save(tmp_path / f"{series}{number}.pt")
    assert _found(tmp_path, step_pattern=r"(?P<series>[ab])(?P<step>\d)") == {"zoo/a": [1, 2], "zoo/b": [1, 2]}


def test_a_pattern_keeps_series_apart_by_what_it_does_not_match(tmp_path: Path) -> None:
    for series in ("epoch_", "epoch2_"):
        for number in (1, 2):
            save(tmp_path / f"{series}{number}.pt")
    assert _found(tmp_path, step_pattern=r"_(\d+)$") == {"zoo": [1, 2], "zoo/epoch2": [1, 2]}


@pytest.mark.parametrize("pattern", [r"(\d)(\d)(\d)", r"(?P<number>\d)", r"(?P<series>\w)"])
def test_a_pattern_of_other_groups_is_an_error(tmp_path: Path, pattern: str) -> None:
    save(tmp_path / "step_1.pt")
    with pytest.raises(ArchiveError, match="group"):
        open_archive(tmp_path, step_pattern=pattern)
