"""The parts of one model's parallel ranks are never read as models; replicas, sweeps over ranks and lone ranks are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import open_archive
from tests.pipeline.archive.folders import save, steps, weights
from tests.pipeline.archive.tiny import PROPERTY

PARTS: dict[str, list[str]] = {
    "DeepSpeed": ["global_step100/mp_rank_00_model_states.pt", "global_step100/mp_rank_01_model_states.pt"],
    "Megatron": ["iter_0000100/mp_rank_00/model.pt", "iter_0000100/mp_rank_01/model.pt"],
    "Megatron with pipeline": ["iter_0000100/mp_rank_00_000/model.pt", "iter_0000100/mp_rank_00_001/model.pt"],
    "NeMo": ["tp_rank_00_pp_rank_000/weights.pt", "tp_rank_01_pp_rank_000/weights.pt"],
    "Llama": ["consolidated.00.pth", "consolidated.01.pth"],
    "GPT-NeoX": [
        "global_step100/layer_00-model_00-model_states.pt",
        "global_step100/layer_02-model_00-model_states.pt",
    ],
    "any": ["checkpoint-100/rank0.pt", "checkpoint-100/rank1.pt"],
    "any, in folders": ["rank_0/step_100.pt", "rank_1/step_100.pt"],
    "fairseq": ["checkpoint_1_100-shard0.pt", "checkpoint_1_100-shard1.pt"],
    "metaseq": ["reshard-model_part-0.pt", "reshard-model_part-1.pt"],
    "metaseq, sharded twice": ["reshard-model_part-0-shard0.pt", "reshard-model_part-0-shard1.pt"],
    "the second rank alone": ["global_step100/mp_rank_01_model_states.pt"],
    "safetensors": ["model-rank-0-of-2.safetensors", "model-rank-1-of-2.safetensors"],
}


@pytest.mark.parametrize("tool", PARTS)
def test_parts_of_a_model_are_reported_and_not_read(tool: str, tmp_path: Path) -> None:
    for seed, name in enumerate(PARTS[tool]):
        save(tmp_path / name, seed=seed)
    archive = open_archive(tmp_path)
    assert not archive.runs
    (problem,) = archive.problems
    assert "part of a model split over" in problem.reason and "merge the parts first" in problem.reason
    assert problem.path == PARTS[tool][0]


def test_the_parts_of_all_steps_are_one_line_and_whole_models_beside_them_are_read(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        for rank in range(4):
            save(tmp_path / f"big/global_step{step}/mp_rank_{rank:02d}_model_states.pt", seed=step + rank)
        save(tmp_path / f"small/checkpoint-{step}/model.safetensors", seed=step)
    archive = open_archive(tmp_path, name="a")
    assert steps(archive) == {"a/small": [100, 200, 300]}
    assert [problem.reason for problem in archive.problems] == [
        "part of a model split over 4 ranks: merge the parts first (and 11 more such files)"
    ]


def test_the_number_of_ranks_in_the_metadata_decides(tmp_path: Path) -> None:
    state = {"module": weights(), "global_steps": 100}
    save(tmp_path / "one/global_step100/mp_rank_00_model_states.pt", state | {"mp_world_size": 1})
    save(tmp_path / "two/global_step100/mp_rank_00_model_states.pt", state | {"mp_world_size": 2})
    archive = open_archive(tmp_path, name="a")
    assert [run.id for run in archive.runs] == ["a/one"]
    assert [(p.path, p.reason) for p in archive.problems] == [
        ("two/global_step100/mp_rank_00_model_states.pt", "part of a model split over 2 ranks: merge the parts first")
    ]


def test_data_parallel_replicas_are_one_model(tmp_path: Path) -> None:
    for step in (100, 200):
        for rank in range(3):
            save(tmp_path / f"checkpoint-{step}/rank{rank}.pt", seed=step)
    archive = open_archive(tmp_path, name="a")
    assert not archive.problems
    assert [checkpoint.step for run in archive.runs for checkpoint in run.checkpoints] == [100, 200]
    said = [*archive.notes, *(str(note) for run in archive.runs for note in getattr(run, "notes", ()))]
    assert sum("a data-parallel replica" in note for note in said) == 4


WHOLE: dict[str, list[str]] = {
    "one rank": ["iter_0000100/mp_rank_00/model_weights.pt"],
    "Llama 7B": ["consolidated.00.pth"],
    "a sweep over LoRA ranks": ["rank4/model.pt", "rank8/model.pt", "rank16/model.pt"],
    "ranks 1 and 2 of a sweep": ["rank1/model.pt", "rank2/model.pt"],
    "sizes of a parallel run": ["tp2/model.pt", "tp4/model.pt"],
    "a consolidated step": ["consolidated_100.pt"],
    "epochs and batches": ["ep0-ba100.pt", "ep1-ba200.pt"],
    "words that end in rank": ["lowrank0/model.pt", "lowrank1/model.pt"],
    "seeds": ["seed0/model.pt", "seed1/model.pt"],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_models_are_read(kind: str, tmp_path: Path) -> None:
    for seed, name in enumerate(WHOLE[kind]):
        save(tmp_path / name, seed=seed)
    archive = open_archive(tmp_path)
    assert not archive.problems
    assert sum(len(run.checkpoints) for run in archive.runs) == len(WHOLE[kind])


@PROPERTY
@given(
    word=st.sampled_from(["mp_rank_{:02d}", "tp_rank_{}", "rank{}", "rank-{}", "shard_{}", "model_part-{}", "pp{}"]),
    count=st.integers(2, 4),
    before=st.sampled_from(["", "model_", "checkpoint-", "net."]),
    after=st.sampled_from(["", "_model_states", "-final"]),
    as_folder=st.booleans(),
)
def test_ranks_are_told_wherever_they_stand_in_a_path(
    tmp_path_factory: pytest.TempPathFactory, word: str, count: int, before: str, after: str, as_folder: bool
) -> None:
    root = tmp_path_factory.mktemp("ranks")
    for rank in range(count):
        name = f"{before}{word.format(rank)}{after}"
        path = root / (f"{name}/weights.pt" if as_folder else f"{name}.pt")
        save(path, {"fc.weight": torch.full((2, 3), float(rank))})
    archive = open_archive(root)
    assert not archive.runs
    assert [f"{count} ranks" in problem.reason for problem in archive.problems] == [True]
