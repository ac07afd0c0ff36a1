"""Notes stand with the run whose files they are about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import open_archive
from pipeline.archive.notes import WHOLE_ARCHIVE, notes_by_run
from pipeline.archive.types import Archive, Run
from pipeline.intake import plan_intake
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
    copy = "best.pt: left: the same weights as actor.pt, step 0"
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


def test_the_report_lists_each_note_under_its_run(tmp_path: Path) -> None:
    trainer_checkpoint(tmp_path / "data" / "a" / "checkpoint-10", 10)
    save(tmp_path / "data" / "b" / "step_5.pt")
    save(tmp_path / "data" / "stray" / "optimizer.pt", {"state": {}})
    store = Store.create(tmp_path / "store.zarr")
    plan_intake(store, open_archive(tmp_path / "data", name="demo"))
    rows = archive_nodes(store, store.runs(), {})["/archive/notes"]
    listed = dict(zip(rows["run"].values, rows["note"].values, strict=True))
    assert set(listed) == {"demo/a", ""}
    assert listed[""] == "stray: left, as training state: optimizer.pt"
