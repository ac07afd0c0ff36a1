"""Folders as they really are: half-written, unreadable, looping, full of other things. Each costs itself only."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive, require_runs
from tests.pipeline.archive.folders import save, steps, trainer_checkpoint, unprivileged, weights, write_json


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that nobody can enter too; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_half_written_checkpoint_costs_only_itself(tmp_path: Path, suffix: str, share: float) -> None:
    for step in (1, 2, 3):
        save(tmp_path / f"step{step}{suffix}")
    half = tmp_path / f"step2{suffix}"
    half.write_bytes(half.read_bytes()[: int(share * half.stat().st_size)])
    archive = open_archive(tmp_path, name="run")
    assert steps(archive) == {"run": [1, 3]}
    assert [problem.path for problem in archive.problems] == [half.name]


def test_a_hidden_or_unfinished_folder_and_a_store_are_not_looked_into(tmp_path: Path) -> None:
    save(tmp_path / "run" / "step1.pt")
    for other in (".cache", "tmp-checkpoint-5", "S.zarr", "report.zarr/weights"):
        save(tmp_path / other / "model.safetensors")
    save(tmp_path / "store" / "tensors" / "model.safetensors")
    write_json(tmp_path / "store" / "zarr.json", {})
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/run": [1]}
    assert archive.problems == ()
    assert sorted(archive.notes) == [
        "store: a Zarr store, not searched",
        "tmp-checkpoint-5: skipped: its name marks it as unfinished (still being written, or left behind by an "
        "interruption); rename it to checkpoint-5 if it is complete",
    ]


def test_a_symlink_loop_is_a_problem_and_ends(tmp_path: Path) -> None:
    save(tmp_path / "run" / "step1.pt")
    (tmp_path / "run" / "loop").symlink_to(tmp_path)
    (tmp_path / "run" / "itself").symlink_to("itself")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/run": [1]}
    assert ["symlink loop" in problem.reason for problem in archive.problems if problem.path == "run/loop"] == [True]


def test_a_link_to_the_latest_is_not_a_second_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        trainer_checkpoint(tmp_path / "a" / f"checkpoint-{step}", step)
        save(tmp_path / "b" / f"step{step}.pt")
    (tmp_path / "a" / "latest").symlink_to("checkpoint-2")
    (tmp_path / "b" / "latest.pt").symlink_to("step2.pt")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/a": [1, 2], "zoo/b": [1, 2]}
    assert archive.problems == ()
    assert sum("already listed" in note for note in archive.notes) == 2


def test_a_link_out_of_the_archive_is_followed(tmp_path: Path) -> None:
    save(tmp_path / "models" / "big" / "model.safetensors")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "base").symlink_to(tmp_path / "models" / "big")
    (run,) = open_archive(tmp_path / "runs").runs
    assert (run.id, run.role) == ("runs/base", "base")
    assert run.checkpoints[0].files[0].path == "base/model.safetensors"


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "run" / "step1.pt")
    (tmp_path / "run" / "step2.pt").symlink_to("gone.pt")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {"zoo/run": [1]}
    assert [(problem.path, problem.reason) for problem in archive.problems] == [
        ("run/step2.pt", "No such file or directory")
    ]


def test_unreadable_folders_and_files_are_problems(open_to_all: Path) -> None:
    save(open_to_all / "good" / "step1.pt")
    save(open_to_all / "good" / "step2.pt").chmod(0)
    save(open_to_all / "closed" / "model.safetensors").parent.chmod(0)
    with unprivileged():
        archive = open_archive(open_to_all, name="zoo")
    assert steps(archive) == {"zoo/good": [1]}
    assert {(problem.path, "ermission denied" in problem.reason) for problem in archive.problems} == {
        ("closed", True),
        ("good/step2.pt", True),
    }


@pytest.mark.parametrize(
    "name", ["model.ckpt", "w.npz", "m.gguf", "weights.h5", "flax_model.msgpack", "__0_0.distcp", "model.onnx"]
)
def test_a_format_that_is_not_read_is_listed_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    save(tmp_path / "run" / "step1.pt")
    archive = open_archive(tmp_path)
    (problem,) = archive.problems
    assert problem.path == name and "not read" in problem.reason


def test_a_pickle_that_may_be_anything_is_noted_only(tmp_path: Path) -> None:
    save(tmp_path / "run" / "step1.pt")
    (tmp_path / "vocabulary.pkl").write_bytes(b"something")
    (tmp_path / "step_5.pkl").write_bytes(b"something")
    archive = open_archive(tmp_path)
    assert [problem.path for problem in archive.problems] == ["step_5.pkl"]
    assert any(note.startswith("vocabulary.pkl: not a checkpoint") for note in archive.notes)


def test_a_closed_root_is_an_error_that_says_so(open_to_all: Path) -> None:
    closed = save(open_to_all / "closed" / "step1.pt").parent
    closed.chmod(0)
    with unprivileged():
        for root in (closed, closed / "below"):
            with pytest.raises(ArchiveError, match="Permission denied"):
                require_runs(open_archive(root))


def test_a_copy_whose_values_cannot_be_read_is_no_copy(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "checkpoint-20", 20, max_steps=20)
    save(tmp_path / "pytorch_model.bin", seed=20)
    path = tmp_path / "checkpoint-20" / "model.safetensors"
    archive = open_archive(tmp_path)
    assert any("skipped: same weights" in note for note in archive.notes)
    path.unlink()
    assert [one.path.name for run in open_archive(tmp_path).runs for one in run.checkpoints] == ["pytorch_model.bin"]


def test_an_orbax_folder_is_one_problem(tmp_path: Path) -> None:
    for name in ("_METADATA", "manifest.ocdbt", "d/0", "ocdbt.process_0/d/1"):
        save(tmp_path / "100" / name / "x.pt")
        shutil.rmtree(tmp_path / "100" / name)
        (tmp_path / "100" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "100" / name).write_bytes(b"x")
    assert [(problem.path, problem.reason) for problem in open_archive(tmp_path).problems] == [
        ("100", "Orbax checkpoints are not read yet")
    ]


def test_other_files_of_a_project_are_none_of_ours(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    for name in ("README.md", "train.py", "events.out.tfevents.1", "tokenizer.json", "vocab.txt", "loss.csv"):
        (tmp_path / name).write_text("x")
    archive = open_archive(tmp_path)
    assert archive.problems == () and archive.notes == ()


def test_a_torch_file_without_weights_is_noted_and_one_that_should_have_them_is_a_problem(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    save(tmp_path / "losses.pt", [0.5, 0.25])
    save(tmp_path / "step2.pt", {"lr": 0.1})
    archive = open_archive(tmp_path)
    assert [problem.path for problem in archive.problems] == ["step2.pt"]
    assert any(note.startswith("losses.pt: holds no weights") for note in archive.notes)


def test_a_data_file_with_the_suffix_bin_is_noted_only(tmp_path: Path) -> None:
    save(tmp_path / "step1.pt")
    (tmp_path / "train.bin").write_bytes(b"\x01\x02\x03\x04" * 100)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"\x01\x02\x03\x04" * 100)
    archive = open_archive(tmp_path)
    assert [problem.path for problem in archive.problems] == ["hf/pytorch_model.bin"]
    assert any(note.startswith("train.bin: not a checkpoint: begins with") for note in archive.notes)


def test_broken_side_files_are_problems_of_their_checkpoint_only(tmp_path: Path) -> None:
    folder = trainer_checkpoint(tmp_path / "checkpoint-7", 70)
    (folder / "config.json").write_text("{")
    (folder / "trainer_state.json").write_text('{"global_step": "many"}')
    (checkpoint,) = open_archive(tmp_path).runs[0].checkpoints
    assert (checkpoint.step, checkpoint.step_source) == (7, "name")
    assert {problem.path for problem in checkpoint.problems} == {
        "checkpoint-7/config.json",
        "checkpoint-7/trainer_state.json",
    }


def test_names_of_any_characters_are_listed(tmp_path: Path) -> None:
    for name in ("with space", "ünïcode", "new\nline", "-dash", "per%cent"):
        save(tmp_path / name / "step1.pt")
    assert len(open_archive(tmp_path).runs) == 5


def test_model_parallel_parts_are_not_taken_for_one_model(tmp_path: Path) -> None:
    for rank in (0, 1):
        save(tmp_path / "global_step5" / f"mp_rank_0{rank}_model_states.pt", {"module": weights(rank)})
    torch.save({}, tmp_path / "global_step5" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    archive = open_archive(tmp_path, name="zoo")
    assert steps(archive) == {}
    (problem,) = archive.problems
    assert problem.reason == "part of a model split over 2 ranks: merge the parts first (and 1 more such file)"
