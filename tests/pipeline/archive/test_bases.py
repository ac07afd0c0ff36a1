"""A run's base is found in a fixed order of places, or the error names every one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as t
from hypothesis import given
from hypothesis import strategies as st

from analyzers.errors import ArchiveError, BaseNotFoundError
from pipeline.archive.bases import (
    BaseOption,
    ResolvedBase,
    check_base_options,
    hf_caches,
    match_base,
    outside_name,
    parse_base_options,
    resolve_base,
)
from pipeline.archive.discover import open_archive
from pipeline.archive.layout import describe
from pipeline.archive.types import Archive, Checkpoint, Run
from tests.pipeline.archive.tiny import PROPERTY, layout_of


def full(run: str, folder: Path, *steps: int, role: Any = "run") -> Run:
    made = []
    for step in steps:
        path = folder / f"checkpoint-{step}" / "model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        made.append(Checkpoint(run, step, "name", path, "safetensors", (), ()))
    return Run(run, folder, tuple(made), role)


def adapter(run: str, folder: Path, base: str | None = None, **config: Any) -> Run:
    settings = {"base_model_name_or_path": base, **config}
    plain = full(run, folder, 10, 20)
    return replace(plain, checkpoints=tuple(replace(c, kind="adapter", adapter=settings) for c in plain.checkpoints))


def archive(root: Path, *runs: Run) -> Archive:
    return Archive("demo", root, runs)


def opened(path: Path, name: str) -> Archive:
    """What lies outside an archive, without reading it: one run of one checkpoint."""
    return Archive(name, path, (Run(name, path, (Checkpoint(name, 0, "none", path, "memory", (), ()),)),))


def resolved(run: Run, within: Archive, **settings: Any) -> ResolvedBase:
    return resolve_base(run, within, open_path=opened, environ={"HF_HOME": str(within.root / "no-cache")}, **settings)


def test_a_full_run_without_any_other_base_is_compared_with_its_first_step(tmp_path: Path) -> None:
    run = full("demo/sft", tmp_path / "sft", 5, 10)
    found = resolved(run, archive(tmp_path, run))
    assert (found.reference, found.kind) == ("demo/sft@5", "first_step")


def test_a_sibling_base_goes_before_the_first_step_and_the_nearest_one_wins(tmp_path: Path) -> None:
    run = full("demo/a/sft", tmp_path / "a" / "sft", 5, 10)
    far = full("demo/base", tmp_path / "base", 0, role="base")
    near = full("demo/a/base", tmp_path / "a" / "base", 1, 2, role="base")
    assert resolved(run, archive(tmp_path, run, far)).reference == "demo/base@0"
    found = resolved(run, archive(tmp_path, run, far, near))
    assert (found.reference, found.kind) == ("demo/a/base@2", "sibling")


def test_a_base_folder_beside_the_checkpoints_of_a_lone_run_is_found(tmp_path: Path) -> None:
    run, base = full("demo", tmp_path, 5), full("demo/base", tmp_path / "base", 0, role="base")
    assert resolved(run, archive(tmp_path, run, base)).reference == "demo/base@0"


def test_a_base_outside_the_archive_s_root_is_nobody_s_sibling(tmp_path: Path) -> None:
    full("base", tmp_path / "base", 0)
    run = full("demo/sft", tmp_path / "runs" / "sft", 5)
    assert resolved(run, archive(tmp_path / "runs", run)).kind == "first_step"


def test_a_base_run_itself_has_its_first_step(tmp_path: Path) -> None:
    base = full("demo/base", tmp_path / "base", 0, 1, role="base")
    assert resolved(base, archive(tmp_path, base)).reference == "demo/base@0"


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        ("demo/other@3", "demo/other@3"),
        ("other@3", "demo/other@3"),
        ("other", "demo/other@7"),
        ("other@first", "demo/other@3"),
        ("other/checkpoint-3", "demo/other@3"),
        ("other/checkpoint-7/model.safetensors", "demo/other@7"),
        ("./other", "demo/other@7"),
    ],
)  # fmt: skip
def test_what_the_user_gives_is_a_run_a_step_or_a_path(given: str, reference: str, tmp_path: Path) -> None:
    run, other = full("demo/sft", tmp_path / "sft", 5), full("demo/other", tmp_path / "other", 3, 7)
    found = resolved(run, archive(tmp_path, run, other), given=given)
    assert (found.reference, found.kind) == (reference, "given")


def test_a_given_path_outside_the_archive_is_opened_as_a_base(tmp_path: Path) -> None:
    run = full("demo/sft", tmp_path / "runs" / "sft", 5)
    outside = tmp_path / "models" / "bert-small"
    outside.mkdir(parents=True)
    found = resolved(run, archive(tmp_path / "runs", run), given=str(outside))
    assert (found.run.role, found.kind) == ("base", "given")
    assert found.run.id.startswith("bert-small~")


def test_two_outside_bases_of_one_folder_name_are_two_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "checkpoint-500", tmp_path / "b" / "checkpoint-500"
    assert outside_name(first) != outside_name(second)


def test_a_given_base_that_is_not_there_is_an_error_and_no_other_place_is_tried(tmp_path: Path) -> None:
    run, base = full("demo/sft", tmp_path / "sft", 5), full("demo/base", tmp_path / "base", 0)
    with pytest.raises(BaseNotFoundError, match=r"no run 'gone'.*gone \(does not exist\)"):
        resolved(run, archive(tmp_path, run, base), given="gone")
    with pytest.raises(BaseNotFoundError, match=r"has no step 4 \(its steps: 0\)"):
        resolved(run, archive(tmp_path, run, base), given="base@4")


def test_a_glob_goes_before_the_general_option_and_needs_no_archive_name(tmp_path: Path) -> None:
    lora, sft = full("demo/lora_r8", tmp_path / "lora_r8", 5), full("demo/sft", tmp_path / "sft", 5, 9)
    within = archive(tmp_path, lora, sft)
    options = parse_base_options(["sft@9", "lora*=sft@5"])
    assert resolved(lora, within, given=options).reference == "demo/sft@5"
    assert resolved(sft, within, given=options).reference == "demo/sft@9"
    check_base_options(options, within)
    with pytest.raises(ArchiveError, match=r"lorra\*=.*: no run matches; runs: .*demo/lora_r8"):
        check_base_options(parse_base_options(["lorra*=sft"]), within)


def test_the_catalog_s_map_goes_before_siblings_and_after_what_is_given(tmp_path: Path) -> None:
    run, other = full("demo/sft", tmp_path / "sft", 5), full("demo/other", tmp_path / "other", 3)
    base = full("demo/base", tmp_path / "base", 0)
    within = archive(tmp_path, run, other, base)
    assert resolved(run, within, catalog_map={"s*": "other"}).kind == "catalog"
    assert resolved(run, within, catalog_map={"x*": "other"}).kind == "sibling"
    assert resolved(run, within, catalog_map={"s*": "other"}, given="base").reference == "demo/base@0"


@pytest.mark.parametrize("name", ["../../other/checkpoint-3", "../other", "other", "ABSOLUTE"])
def test_an_adapter_s_config_names_a_path_relative_to_itself_its_run_or_the_archive(name: str, tmp_path: Path) -> None:
    other = full("demo/other", tmp_path / "other", 3)
    lora = adapter("demo/lora", tmp_path / "lora", str(tmp_path / "other") if name == "ABSOLUTE" else name)
    found = resolved(lora, archive(tmp_path, lora, other))
    assert (found.reference, found.kind) == ("demo/other@3", "adapter_config")


def cache(root: Path, revision: str = "main") -> Path:
    model = root / "hub" / "models--org--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / revision).write_text("0123456789abcdef\n")
    snapshot = model / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    return snapshot


def test_an_adapter_s_base_is_found_in_the_local_hugging_face_cache_by_its_revision(tmp_path: Path) -> None:
    snapshot = cache(tmp_path / "hf", "v2")
    lora = adapter("demo/lora", tmp_path / "runs" / "lora", "org/model", revision="v2")
    found = resolve_base(
        lora, archive(tmp_path / "runs", lora), open_path=opened, environ={"HF_HOME": str(tmp_path / "hf")}
    )
    assert (found.kind, found.checkpoint.path) == ("hf_cache", snapshot)
    assert found.run.id == "org/model~0123456"


ASCII = "abz019._-/~@ "


@PROPERTY
@given(hub=st.sampled_from([None, "/hub"]), home=st.sampled_from([None, "/home"]), xdg=st.sampled_from([None, "/xdg"]))
def test_the_cache_s_place_follows_the_library_s_variables(hub: str | None, home: str | None, xdg: str | None) -> None:
    given_ = {"HF_HUB_CACHE": hub, "HF_HOME": home, "XDG_CACHE_HOME": xdg}
    (place,) = hf_caches({name: value for name, value in given_.items() if value})
    default = Path("~/.cache/huggingface/hub").expanduser()
    expected = hub or (home and f"{home}/hub") or (xdg and f"{xdg}/huggingface/hub") or default
    assert place == Path(expected)


@pytest.mark.parametrize("target", ["lora@10", "demo/lora@20", "other@first", "other@last"])
def test_an_adapter_is_no_base_not_even_its_own(tmp_path: Path, target: str) -> None:
    lora, other = adapter("demo/lora", tmp_path / "lora"), adapter("demo/other", tmp_path / "other")
    plain = full("demo/plain", tmp_path / "plain", 5)
    for run in (lora, plain):
        with pytest.raises(BaseNotFoundError, match="an adapter, but a base needs full weights"):
            resolved(run, archive(tmp_path, lora, other, plain), given=f"{run.id}={target}")


def test_an_adapter_without_its_base_says_everywhere_that_was_looked(tmp_path: Path) -> None:
    lora = adapter("demo/lora", tmp_path / "lora", "org/model")
    with pytest.raises(BaseNotFoundError) as raised:
        resolved(lora, archive(tmp_path, lora))
    text = str(raised.value)
    assert "'org/model'" in text
    for place in ("lora/base", "lora/checkpoint-10/org/model", "lora/org/model", "models--org--model", "--base PATH"):
        assert place in text


def test_an_adapter_that_names_nothing_says_so(tmp_path: Path) -> None:
    lora = adapter("demo/lora", tmp_path / "lora", None)
    with pytest.raises(BaseNotFoundError, match="its config names no base"):
        resolved(lora, archive(tmp_path, lora))


@PROPERTY
@given(
    name=st.text(ASCII, max_size=20) | st.sampled_from(["~nobody/x", "a\0b", "x" * 5000, "/", "..", "~"]),
    revision=st.text(ASCII, max_size=5),
)
def test_whatever_an_adapter_names_as_its_base_the_answer_is_a_base_or_a_clear_error(name: str, revision: str) -> None:
    root = Path("/nowhere/runs")
    lone = Checkpoint("demo/lora", 1, "name", root / "lora" / "a.safetensors", "safetensors", (), (), "adapter")
    lora = Run(
        "demo/lora", root / "lora", (replace(lone, adapter={"base_model_name_or_path": name, "revision": revision}),)
    )
    try:
        assert resolved(lora, archive(root, lora)).kind in ("adapter_config", "hf_cache")
    except BaseNotFoundError as error:
        assert "--base" in str(error)


def test_a_folder_of_several_runs_or_none_is_no_base(tmp_path: Path) -> None:
    run = full("demo/sft", tmp_path / "runs" / "sft", 5)
    outside = tmp_path / "many"
    outside.mkdir()

    def many(path: Path, name: str) -> Archive:
        return Archive(name, path, (full("x/a", tmp_path / "xa", 1), full("x/b", tmp_path / "xb", 1)))

    with pytest.raises(BaseNotFoundError, match="expected one run of full weights, found x/a, x/b"):
        resolve_base(run, archive(tmp_path / "runs", run), given=str(outside), open_path=many)


def test_base_options_are_parsed_and_an_existing_path_may_hold_an_equals_sign(tmp_path: Path) -> None:
    odd = tmp_path / "lr=0.1"
    odd.mkdir()
    assert parse_base_options(["a*=b@3", "c", str(odd)]) == (
        BaseOption("a*", "b@3"),
        BaseOption("*", "c"),
        BaseOption("*", str(odd)),
    )
    with pytest.raises(ArchiveError, match="expected PATH"):
        parse_base_options(["=x"])


def test_matrices_are_matched_by_name_and_shape_with_a_reason_for_the_rest() -> None:
    run = layout_of(
        {
            "model.fc1.weight": torch.zeros(3, 4),
            "model.fc2.weight": torch.zeros(2, 3),
            "model.wte.weight": torch.zeros(9, 4),
        }
    )
    base = layout_of(
        {"fc1.weight": torch.zeros(3, 4), "fc_2.weight": torch.zeros(2, 3), "wte.weight": torch.zeros(8, 4)}
    )
    found = match_base(run, base)
    assert [(a.name, b.name) for a, b in found.pairs] == [("fc1", "fc1")]
    reasons = {u.name: u.reason for u in found.unmatched}
    assert "nearest: fc_2" in reasons["fc2"]
    assert reasons["wte"] == "shapes differ: (4, 9) here, (4, 8) in the base"


def test_real_files_an_adapter_finds_its_base_in_the_cache_and_every_delta_its_matrix(tmp_path: Path) -> None:
    config = t.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24, vocab_size=30
    )
    model = t.BertForSequenceClassification(config)
    model.save_pretrained(cache(tmp_path / "hf"))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "dense"]))
    adapted.peft_config["default"].base_model_name_or_path = "org/model"
    adapted.save_pretrained(tmp_path / "runs" / "lora" / "checkpoint-10", save_embedding_layers=False)
    runs = open_archive(tmp_path / "runs")
    (run,) = runs.runs
    found = resolve_base(run, runs, environ={"HF_HOME": str(tmp_path / "hf")})
    assert (found.kind, found.run.role, found.run.id) == ("hf_cache", "base", "org/model~0123456")
    assert found.checkpoint.config["num_attention_heads"] == 4
    layout = describe(run.checkpoints[0], found.checkpoint.config)
    matched = match_base(layout, describe(found.checkpoint))
    assert len(matched.pairs) == 5
    assert not matched.unmatched
