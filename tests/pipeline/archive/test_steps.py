"""The step that a name tells."""

from __future__ import annotations

import pytest

from analyzers.errors import ArchiveError
from pipeline.archive.steps import compile_pattern, step_from_metadata, step_from_name, step_from_pattern


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("step1000", 1000),
        ("step_000100", 100),
        ("global_step10", 10),
        ("iter_0001000", 1000),
        ("epoch=3-step=500", 500),
        ("ckpt-100", 100),
        ("step3000-tokens12B", 3000),
        ("ep1-ba2000", 2000),
        ("100", 100),
        ("20k", 20_000),
        ("checkpoint-1.5k", 1500),
        ("step1000-unsharded", 1000),
        ("model_step_000200", 200),
        ("pythia-70m-step143000", 143_000),
        ("epoch_7", 7),
        ("Step-5", 5),
        ("model.ckpt-1000", 1000),
        ("epoch=3-step=500-val_loss=0.12", 500),
        ("step0", 0),
    ],
)
def test_names_in_use_tell_their_step(name: str, step: int) -> None:
    found = step_from_name(name)
    assert found is not None and found.step == step


@pytest.mark.parametrize(
    "name",
    [
        *("model", "lora_r8", "resnet50", "gpt2", "bert-base-12", "adapter_v2", "seed1", "step_size_0.1", "step0.1"),
        *("lr1e-4", "timestep5", "model-00001-of-00002", "consolidated.00", "llama-7b", "run_1", "model_1", ""),
        "step" + "9" * 19,
    ],
)
def test_a_number_that_counts_something_else_is_no_step(name: str) -> None:
    assert step_from_name(name) is None


def test_a_numbered_file_is_a_step_and_a_numbered_folder_is_a_model() -> None:
    assert step_from_name("model_000100", is_file=True).step == 100  # type: ignore[union-attr]  # None fails as well
    assert step_from_name("model_000100") is None


def test_the_name_of_the_series_is_what_is_neither_step_nor_generic() -> None:
    found = {name: step_from_name(name) for name in ("pythia-70m-step10", "model_step_10", "epoch=3-step=10")}
    assert [one.series for one in found.values() if one] == ["pythia-70m", "", ""]


def test_a_step_in_metadata_goes_by_the_surest_key() -> None:
    assert step_from_metadata({"epoch": 3, "iteration": 7, "global_step": 500}) == 500
    assert step_from_metadata({"epoch": 3}) is None


def test_a_users_pattern_finds_its_group() -> None:
    pattern = compile_pattern(r"saved_at_(\d+)")
    found = step_from_pattern(pattern, "net_saved_at_0012")
    assert found is not None and found.step == 12
    assert step_from_pattern(pattern, "step5") is None


@pytest.mark.parametrize(("pattern", "fault"), [(r"(\d+", "not a regular expression"), (r"\d+", "0 groups")])
def test_a_pattern_that_cannot_work_says_why(pattern: str, fault: str) -> None:
    with pytest.raises(ArchiveError, match=fault):
        compile_pattern(pattern)


def test_a_pattern_whose_group_is_no_number_says_what_it_found() -> None:
    with pytest.raises(ArchiveError, match="'abc'"):
        step_from_pattern(compile_pattern("x(.*)"), "xabc")
