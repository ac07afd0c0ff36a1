"""Runs, checkpoints and steps in a folder tree."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive, open_tensors, require_runs
from pipeline.archive.notes import notes_by_run
from tests.pipeline.archive.folders import (
    bits,
    only_run,
    save,
    steps,
    torch_bits,
    trainer_checkpoint,
    weights,
    write_json,
)


def test_runs_side_by_side_and_nested_are_called_by_their_path(tmp_path: Path) -> None:
    for run in ("a", "deep/er/b"):
        for step in (100, 20):
            save(tmp_path / run / f"step{step}" / "model.safetensors")
    save(tmp_path / "lone" / "model.pt")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/a": [20, 100], "zoo/deep/er/b": [20, 100], "zoo/lone": [0]}
    assert [run.path.name for run in archive.runs] == ["a", "b", "lone"]
    assert archive.problems == ()


def test_the_root_itself_may_be_the_run_or_the_checkpoint_or_the_file(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for step in (1, 2):
        trainer_checkpoint(root / f"checkpoint-{step}", step)
    assert steps(open_archive(root)) == {"mine": [1, 2]}
    assert steps(open_archive(root / "checkpoint-2")) == {"checkpoint-2": [2]}
    assert steps(open_archive(save(tmp_path / "files" / "step7.pt"))) == {"step7": [7]}


def test_files_of_several_namings_in_one_folder_are_one_run(tmp_path: Path) -> None:
    names = ["step100.safetensors", "model_step_000200.pt", "epoch=3-step=500.pt", "ckpt-700.pth", "800.bin"]
    for name in names:
        save(tmp_path / "run" / name)
    assert steps(open_archive(tmp_path, name="zoo")) == {"zoo/run": [100, 200, 500, 700, 800]}


def test_a_checkpoint_is_read_as_it_was_saved(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / f"step{step}.pt", {"model": weights(step)})
    for checkpoint in only_run(tmp_path).checkpoints:
        with open_tensors(checkpoint) as tensors:
            for name, tensor in weights(checkpoint.step).items():
                assert bits(tensors.read(name)) == torch_bits(tensor)


def test_a_base_folder_is_a_base(tmp_path: Path) -> None:
    save(tmp_path / "exp" / "base" / "model.safetensors")
    save(tmp_path / "exp" / "lora" / "step1.safetensors")
    roles = {run.id: run.role for run in open_archive(tmp_path, name="zoo").runs}
    assert roles == {"zoo/exp/base": "base", "zoo/exp/lora": "run"}


def test_metadata_tells_the_step_before_the_name_does(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "a" / "checkpoint-5", 500)
    save(tmp_path / "b" / "ckpt-5.pt", {"model": weights(), "global_step": 600})
    (tmp_path / "c").mkdir()
    safetensors.torch.save_file(weights(), tmp_path / "c" / "ckpt-5.safetensors", metadata={"step": "700"})
    save(tmp_path / "d" / "ckpt-5.pt", {"model": weights(), "epoch": 800})
    save(tmp_path / "e" / "last.pt", {"model": weights(), "epoch": 900})
    save(tmp_path / "f" / "last.pt")
    found = {run.id: (run.checkpoints[0].step, run.checkpoints[0].step_source) for run in open_archive(tmp_path).runs}
    assert list(found.values()) == [
        (500, "metadata"),
        (600, "metadata"),
        (700, "metadata"),
        (5, "name"),
        (900, "metadata"),
        (0, "none"),
    ]


def test_a_pattern_and_a_scale_override_names_and_metadata(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path / f"gen{number}-step77" / "model.pt", {"model": weights(), "step": 9})
    run = only_run(tmp_path, step_pattern=r"gen(\d+)", step_scale=250)
    assert [(one.step, one.step_source) for one in run.checkpoints] == [(250, "catalog"), (500, "catalog")]


def test_a_scale_alone_multiplies_steps_from_names_only(tmp_path: Path) -> None:
    for number in (3, 4):
        save(tmp_path / "names" / f"step{number}.safetensors")
        save(tmp_path / "numbers" / f"step{number}.pt", {"model": weights(), "step": 9 + number})
    found = {
        run.id: [(one.step, one.step_source) for one in run.checkpoints]
        for run in open_archive(tmp_path, name="zoo", step_scale=1000).runs
    }
    assert found == {
        "zoo/names": [(3000, "catalog"), (4000, "catalog")],
        "zoo/numbers": [(12, "metadata"), (13, "metadata")],
    }


def test_a_run_has_one_clock_and_a_number_that_one_checkpoint_lacks_is_none(tmp_path: Path) -> None:
    save(tmp_path / "step3.safetensors")
    save(tmp_path / "step4.pt", {"model": weights(), "step": 9})
    assert [(one.step, one.step_source) for one in only_run(tmp_path).checkpoints] == [(3, "name"), (4, "name")]


def test_two_files_of_one_step_are_a_problem_and_never_overwrite(tmp_path: Path) -> None:
    save(tmp_path / "run" / "ckpt-100.pt", seed=1)
    save(tmp_path / "run" / "step100.pt", seed=2)
    archive = open_archive(tmp_path)
    (checkpoint,) = archive.runs[0].checkpoints
    assert checkpoint.path.name == "ckpt-100.pt"
    (problem,) = archive.problems
    assert problem.path == "run/step100.pt" and "step 100" in problem.reason and "ckpt-100.pt" in problem.reason


def test_a_best_file_that_repeats_a_step_is_noted_and_one_that_differs_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "run" / "step_100.pt", {"model": weights(1), "step": 100})
    save(tmp_path / "run" / "best.pt", {"model": weights(1), "step": 100})
    archive = open_archive(tmp_path)
    assert archive.problems == ()
    assert any("best.pt: skipped: same weights as run/step_100.pt" in note for note in archive.notes)
    save(tmp_path / "run" / "best.pt", {"model": weights(2), "step": 100})
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/run": [100], "zoo/run/best": [100]}
    assert archive.problems == () and any("holds other weights" in note for note in archive.notes)


def test_series_in_one_folder_are_runs_of_their_own(tmp_path: Path) -> None:
    for series in ("small", "large"):
        for step in (1, 2):
            save(tmp_path / f"{series}_step{step}.safetensors")
    assert steps(open_archive(tmp_path, name="zoo")) == {"zoo/large": [1, 2], "zoo/small": [1, 2]}


def test_one_series_in_a_folder_is_called_as_the_folder(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / f"pythia-70m-step{step}" / "model.safetensors")
    assert steps(open_archive(tmp_path, name="zoo")) == {"zoo": [1, 2]}


def test_files_without_steps_are_runs_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "resnet.pt")
    save(tmp_path / "vit.safetensors")
    assert steps(open_archive(tmp_path, name="zoo")) == {"zoo/resnet": [0], "zoo/vit": [0]}


def test_parts_below_a_step_folder_are_runs_over_steps(tmp_path: Path) -> None:
    for step in (1, 2):
        for part in ("unet", "text_encoder"):
            save(tmp_path / f"checkpoint-{step}" / part / "diffusion_pytorch_model.safetensors")
    assert steps(open_archive(tmp_path, name="zoo")) == {"zoo/text_encoder": [1, 2], "zoo/unet": [1, 2]}


def test_a_trainer_run_leaves_its_optimizer_and_random_states(tmp_path: Path) -> None:
    for step in (10, 20):
        trainer_checkpoint(tmp_path / "run" / f"checkpoint-{step}", step)
    archive = open_archive(tmp_path)
    (run,) = archive.runs
    assert [checkpoint.path.name for checkpoint in run.checkpoints] == ["model.safetensors"] * 2
    assert run.checkpoints[0].config == {"model_type": "tiny"}
    assert {Path(stamp.path).name for stamp in run.checkpoints[0].files} == {
        "model.safetensors",
        "config.json",
        "trainer_state.json",
    }
    assert archive.problems == ()
    assert len(archive.notes) == 2
    (note,) = notes_by_run(archive)[run.id]
    assert note.startswith("run/checkpoint-10 and 1 more: ignored as training state: ")
    assert all(name in note for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"))


def test_what_deepspeed_and_fsdp_keep_below_a_trainers_checkpoint_is_left(tmp_path: Path) -> None:
    for step in (10, 20):
        folder = trainer_checkpoint(tmp_path / f"checkpoint-{step}", step)
        save(folder / f"global_step{step}" / "mp_rank_00_model_states.pt", {"module": weights(step)})
        save(folder / f"global_step{step}" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", {})
        save(folder / f"global_step{step}" / "zero_pp_rank_0_mp_rank_00_model_states.pt", {})
        for part in ("optimizer_0", "pytorch_model_fsdp_0"):
            (folder / part).mkdir()
            (folder / part / "__0_0.distcp").write_bytes(b"x")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo": [10, 20]}
    assert {checkpoint.path.name for checkpoint in archive.runs[0].checkpoints} == {"model.safetensors"}
    assert archive.problems == ()


def test_the_log_of_a_run_is_read_once_whatever_its_checkpoints_repeat(tmp_path: Path) -> None:
    for step in (10, 30):
        trainer_checkpoint(tmp_path / f"checkpoint-{step}", step)
    rows = only_run(tmp_path).metrics
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 1 / 10), (20, 1 / 20), (30, 1 / 30)]


def test_weights_at_a_trainers_root_are_its_final_step(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "checkpoint-10", 10, max_steps=15)
    save(tmp_path / "model.safetensors", seed=15)
    first, last = only_run(tmp_path).checkpoints
    assert (first.step, last.step, last.step_source) == (10, 15, "metadata")
    assert last.notes[-1] == "model.safetensors has no step in its name; its metadata says step 15"


def test_the_roots_own_state_tells_the_final_step_first(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "checkpoint-10", 10, max_steps=15)
    trainer_checkpoint(tmp_path, 12)
    assert [one.step for one in only_run(tmp_path).checkpoints] == [10, 12]


@pytest.mark.parametrize("copied", [10, 20])
def test_weights_at_the_root_that_repeat_the_last_or_best_are_an_alias(tmp_path: Path, copied: int) -> None:
    best = str(tmp_path / "elsewhere" / "checkpoint-10")
    for step in (10, 20):
        trainer_checkpoint(tmp_path / f"checkpoint-{step}", step, max_steps=20, best_model_checkpoint=best)
    save(tmp_path / "model.safetensors", seed=copied)
    archive = open_archive(tmp_path)
    assert [one.step for one in archive.runs[0].checkpoints] == [10, 20]
    assert archive.problems == ()
    assert any(f"same weights as checkpoint-{copied}" in note for note in archive.notes)


def test_weights_at_the_root_that_claim_the_last_step_and_differ_are_a_problem(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "checkpoint-20", 20, max_steps=20)
    save(tmp_path / "model.safetensors", seed=99)
    archive = open_archive(tmp_path)
    assert archive.runs[0].checkpoints[0].path.parent.name == "checkpoint-20"
    assert [problem.path for problem in archive.problems] == ["model.safetensors"]


def test_weights_beside_steps_that_tell_no_step_are_a_run_of_their_own(tmp_path: Path) -> None:
    for folder, other in (("a", "averaged.pt"), ("b", "model.safetensors")):
        save(tmp_path / folder / "step1.pt")
        save(tmp_path / folder / other, seed=5)
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/a": [1], "zoo/a/averaged": [0], "zoo/b": [1], "zoo/b/model": [0]}
    assert archive.problems == () and sum("gives its step" in note for note in archive.notes) == 2


def test_an_adapter_folder_is_an_adapter_with_its_config(tmp_path: Path) -> None:
    factors = {
        "base_model.model.q.lora_A.weight": torch.ones(2, 4),
        "base_model.model.q.lora_B.weight": torch.ones(4, 2),
    }
    for step in (1, 2):
        save(tmp_path / f"checkpoint-{step}" / "adapter_model.safetensors", factors)
        write_json(tmp_path / f"checkpoint-{step}" / "adapter_config.json", {"r": 2, "lora_alpha": 4})
    for checkpoint in only_run(tmp_path).checkpoints:
        assert checkpoint.kind == "adapter" and checkpoint.adapter == {"r": 2, "lora_alpha": 4}
        assert any(stamp.path.endswith("adapter_config.json") for stamp in checkpoint.files)


def test_an_adapter_without_its_config_or_its_weights_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "a" / "adapter_model.safetensors")
    write_json(tmp_path / "b" / "adapter_config.json", {})
    save(tmp_path / "c" / "adapter_model.safetensors")
    (tmp_path / "c" / "adapter_config.json").write_text("{broken")
    archive = open_archive(tmp_path)
    assert archive.runs == ()
    assert {problem.path: problem.reason[:20] for problem in archive.problems} == {
        "a/adapter_model.safetensors": "no adapter_config.js",
        "b/adapter_config.json": "no weights beside it",
        "c/adapter_config.json": "not valid JSON: Expe",
    }


def test_a_config_stands_beside_the_weights_or_at_the_run(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"from": "outside"})
    write_json(tmp_path / "run" / "config.json", {"from": "run"})
    save(tmp_path / "run" / "step1.safetensors")
    save(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    save(tmp_path / "other" / "model.safetensors")
    configs = {one.step: one.config for run in open_archive(tmp_path).runs for one in run.checkpoints}
    assert configs == {1: {"from": "run"}, 2: {"from": "run"}, 0: {}}


def test_the_same_weights_in_two_formats_are_one_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors")
    save(tmp_path / "pytorch_model.bin")
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF")
    archive = open_archive(tmp_path)
    assert archive.runs[0].checkpoints[0].format == "safetensors"
    assert archive.problems == ()
    assert len(archive.notes) == 2


def test_a_damaged_copy_gives_way_to_the_other_format(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors").write_bytes(b"")
    save(tmp_path / "pytorch_model.bin")
    archive = open_archive(tmp_path)
    assert archive.runs[0].checkpoints[0].format == "torch-zip"
    assert [problem.path for problem in archive.problems] == ["model.safetensors"]


def test_an_empty_folder_has_no_runs_and_the_message_says_what_was_looked_for(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    assert archive.runs == () and archive.problems == ()
    with pytest.raises(ArchiveError, match=r"Looked for safetensors and torch files .*\nThere are no files at all"):
        require_runs(archive)


def test_a_folder_of_what_cannot_be_read_says_so_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "epoch=3-step=500.ckpt").write_bytes(b"PK\x03\x04")
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / "__1_0.distcp").write_bytes(b"x")
    (tmp_path / "old.pth").write_bytes(b"\x80\x02X\x03\0\0\0abc.")
    with pytest.raises(ArchiveError) as raised:
        require_runs(open_archive(tmp_path))
    message = str(raised.value)
    assert (
        "step=500.ckpt" in message
        and "__0_0.distcp" in message
        and "1 more such" in message
        and "old.pth: pickles that torch.save did not write" in message
    )


def test_a_second_model_beside_the_first_is_not_a_step(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint-5" / "model.safetensors", seed=1)
    save(tmp_path / "checkpoint-5" / "model_1.safetensors", seed=2)
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo": [5]} and archive.problems == ()
    assert "checkpoint-5/model_1.safetensors: skipped: the checkpoint here is model.safetensors" in archive.notes


def test_a_scale_out_of_range_is_an_error(tmp_path: Path) -> None:
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ArchiveError, match="step scale"):
            open_archive(tmp_path, step_scale=scale)


def test_no_such_folder_and_a_url_are_errors_that_say_so(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such file or folder"):
        open_archive(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="s3://bucket/runs: only local folders can be read"):
        open_archive("s3://bucket/runs")


def test_two_runs_of_one_name_are_a_problem(tmp_path: Path) -> None:
    # A step folder's part `x`, and the folder `x` itself; and one name in two Unicode forms.
    save(tmp_path / "é" / "model.safetensors")
    save(tmp_path / "e\u0301" / "model.safetensors")
    archive = open_archive(tmp_path)
    assert len(archive.runs) == 1
    assert "two runs are called" in archive.problems[0].reason


def test_a_file_changed_since_it_was_listed_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors")
    (checkpoint,) = only_run(tmp_path).checkpoints
    save(path, weights() | {"fc1.weight": torch.ones(2, 2)})
    with pytest.raises(
        ArchiveError, match=r"fc1\.weight: was float32 \[6, 4\] when it was listed and is now float32 \[2, 2\]"
    ):
        open_tensors(checkpoint)


def test_stamps_are_those_of_the_files_below_the_root(tmp_path: Path) -> None:
    path = save(tmp_path / "run" / "step1.safetensors")
    (stamp,) = only_run(tmp_path).checkpoints[0].files
    assert (stamp.path, stamp.size, stamp.mtime_ns) == (
        "run/step1.safetensors",
        path.stat().st_size,
        path.stat().st_mtime_ns,
    )


def test_progress_tells_each_checkpoint_once(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / f"step{step}.pt")
    told: list[str] = []
    open_archive(tmp_path, on_progress=told.append)
    assert told == ["step1.pt", "step2.pt"]
