"""Notes stand with the run whose files they are about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis.intake import plan_intake
from pipeline.archive import open_archive
from pipeline.archive.notes import WHOLE_ARCHIVE, notes_by_run, within
from pipeline.archive.types import Archive, Run
from pipeline.report.archive_tables import archive_nodes
from pipeline.store import Store
from tests.pipeline.archive.folders import save, trainer_checkpoint

names = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


def test_training_state_is_noted_at_the_run_that_holds_it(tmp_path: Path) -> None:
    for step in (10, 20):
        trainer_checkpoint(tmp_path / "a" / f"checkpoint-{step}", step)
    save(tmp_path / "b" / "step_5.pt")
    notes = notes_by_run(open_archive(tmp_path, name="demo"))
    (note,) = notes["demo/a"]
    assert "optimizer.pt" in note
    assert notes["demo/b"] == ()
    assert notes.get(WHOLE_ARCHIVE, ()) == ()


def test_where_runs_share_a_folder_a_note_belongs_to_the_run_whose_checkpoint_it_names(tmp_path: Path) -> None:
    for seed, name in enumerate(("actor.pt", "critic.pt")):
        save(tmp_path / name, seed=seed)
    archive = open_archive(tmp_path, name="demo")
    copy = "best.pt: skipped: same weights as actor.pt, step 0"
    archive = replace(archive, notes=(copy, "x.npy: ignored"))
    assert len(archive.runs) == 2
    notes = notes_by_run(archive)
    assert notes["demo/actor"] == (copy,)
    assert notes["demo/critic"] == ()
    assert notes[WHOLE_ARCHIVE] == ("x.npy: ignored",)


@given(folders=st.lists(names, min_size=1, max_size=4, unique=True), inner=names, text=names)
def test_a_note_belongs_to_the_innermost_run_folder(folders: list[str], inner: str, text: str) -> None:
    root = Path("/archive")
    runs = tuple(
        Run(f"demo/{'/'.join(folders[: i + 1])}", root.joinpath(*folders[: i + 1]), ()) for i in range(len(folders))
    )
    path = "/".join((*folders, inner))
    notes = notes_by_run(Archive("demo", root, runs, (), (f"{path}: {text}",)))
    assert [run for run, lines in notes.items() if lines] == [runs[-1].id]


def agents(folder: Path, *steps: tuple[int, int]) -> None:
    """Files whose names say one step and whose metadata another."""
    for in_name, in_metadata in steps:
        state = {"model": {"w.weight": torch.randn(4, 3)}, "global_step": in_metadata, "optimizer": {"state": {}}}
        save(folder / f"rl_model_{in_name}_steps.pt", state)


def test_one_note_says_that_names_and_metadata_disagree_about_the_steps(tmp_path: Path) -> None:
    agents(tmp_path / "differ", (100000, 100352), (200000, 200704), (300000, 301056))
    agents(tmp_path / "agree", (100, 100), (200, 200))
    agents(tmp_path / "from-zero", (0, 1), (1, 2))
    for save_number, update in ((1, 400), (2, 800)):
        state = {"model": {"w.weight": torch.randn(4, 3)}, "num_updates": update}
        save(tmp_path / "saves" / f"checkpoint_{save_number}.pt", state)
    notes = notes_by_run(open_archive(tmp_path, name="demo"))
    (note,) = (note for note in notes["demo/differ"] if "its name says" in note)
    assert note == (
        "differ/rl_model_100000_steps.pt: its name says step 100000, but its metadata says 100352; the name is "
        "used; the same holds for 2 other checkpoints of this run"
    )
    assert notes["demo/saves"] == (
        "saves/checkpoint_1.pt: its name says step 1, but its metadata says 400; the metadata is used; the same holds "
        "for 1 other checkpoint of this run",
    )
    assert not any("its name says" in note for run in ("agree", "from-zero") for note in notes[f"demo/{run}"])


def test_epochs_in_names_do_not_contradict_steps_in_metadata(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(tmp_path / f"epoch_{epoch}.pt", {"model": {"w.weight": torch.randn(4, 3)}, "global_step": 500 * epoch})
    archive = open_archive(tmp_path)
    assert [checkpoint.step for checkpoint in archive.runs[0].checkpoints] == [500, 1000]
    assert archive.notes == ()


def test_what_several_checkpoints_hold_beside_their_weights_is_one_note_without_their_names(tmp_path: Path) -> None:
    agents(tmp_path / "a", (1, 1), (2, 2), (3, 3))
    agents(tmp_path / "b", (1, 1), (2, 2))
    save(tmp_path / "c" / "rl_model_1_steps.pt", {"model": {"w.weight": torch.randn(4, 3)}})
    agents(tmp_path / "c", (2, 2))
    notes = notes_by_run(open_archive(tmp_path, name="demo"))
    assert notes["demo/a"] == ("all 3 checkpoints: ignored: optimizer (1 entry)",)
    assert notes["demo/b"] == ("both checkpoints: ignored: optimizer (1 entry)",)
    assert notes["demo/c"] == ("c/rl_model_2_steps.pt: ignored: optimizer (1 entry)",)


def test_under_its_run_a_note_does_not_repeat_the_runs_folder(tmp_path: Path) -> None:
    agents(tmp_path / "a" / "ppo", (1000, 1024), (2000, 2048))
    archive = open_archive(tmp_path, name="demo")
    (run,) = archive.runs
    listed = [within(note, run, archive.root) for note in notes_by_run(archive)[run.id]]
    assert listed[0].startswith("rl_model_1000_steps.pt: its name says step 1000")
    assert within(f"{run.id}: its checkpoints differ", run, archive.root) == "its checkpoints differ"


def test_files_that_differ_in_numbers_and_paths_in_a_runs_folder_are_short(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / "a" / f"step_{step}.pt", seed=step)
        save(tmp_path / "a" / f"opt{step}.pt", {"state": {}, "param_groups": []})
    save(tmp_path / "a" / "best.pt", seed=2)
    archive = open_archive(tmp_path, name="demo")
    notes = [within(note, archive.runs[0], archive.root) for note in notes_by_run(archive)["demo/a"]]
    assert sorted(notes) == [
        "best.pt: skipped: same weights as step_2.pt, step 2",
        "ignored as training state: opt*.pt (2 files)",
    ]


def test_the_report_lists_each_note_under_its_run(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "data" / "a" / "checkpoint-10", 10)
    save(tmp_path / "data" / "b" / "step_5.pt")
    save(tmp_path / "data" / "stray" / "optimizer.pt", {"state": {}})
    store = Store.create(tmp_path / "store.zarr")
    plan_intake(store, open_archive(tmp_path / "data", name="demo"))
    rows = archive_nodes(store, store.runs(), {})["/archive/notes"]
    listed = dict(zip(rows["run"].values, rows["note"].values, strict=True))
    assert set(listed) == {"demo/a", ""}
    assert listed[""] == "stray: ignored as training state: optimizer.pt"
