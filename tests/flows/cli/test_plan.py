"""`varve plan` says beforehand what `varve analyze` then does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli.app import run
from pipeline.store import Store
from tests.end_to_end.archives import SHAPES
from tests.flows.cli.conftest import Analysed

TINY = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
PARAMETERS = 2 * 100 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32) + 32


@pytest.fixture(autouse=True)
def _own_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def planned(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["plan", *map(str, arguments), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(["plan", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_a_plan_without_a_store_counts_the_units_that_the_analysis_then_stores(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a statistic, base or adapter that headers alone do not lead to: the contents here all differ."""
    # How many draws the null of the totals asks for is known when their results are: a plan gives it as `further`.
    settled = ("--set", "intruder_dimensions.null=false")
    before = planned(capsys, pristine.archive, "--out", tmp_path / "new", *settled)
    after = planned(capsys, pristine.archive, "--out", pristine.out, *settled)
    assert before["upper"]["present"] == 0 and before["upper"]["checkpoints"] == 4
    assert before["upper"]["units"] == after["upper"]["present"] > 100


def test_what_the_store_holds_counts_as_done(pristine: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(capsys, pristine.archive, "--out", pristine.out)
    for bound in ("upper", "lower"):
        assert plan[bound]["units"] == plan[bound]["read_bytes"] == plan[bound]["tensor_bytes"] == 0
        assert plan[bound]["unchanged"] == 4


def test_one_new_checkpoint_is_planned_alone(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a plan that takes a recorded checkpoint for new, or its invented contents for the recorded ones."""
    new = analysed.archive / "full/checkpoint-30"
    shutil.copytree(analysed.archive / "full/checkpoint-20", new)
    plan = planned(capsys, analysed.archive, "--out", analysed.out)
    assert plan["upper"]["checkpoints"] == 1 and plan["upper"]["unchanged"] == 4
    size = sum(4 * int(np.prod(shape)) for shape in SHAPES.values())
    assert plan["upper"]["read_bytes"] == size
    assert 0 < plan["upper"]["units"] < plan["upper"]["present"]


def test_a_plan_opens_no_tensor(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was opened")

    monkeypatch.setattr("pipeline.archive.reader.open_tensors", refuse)
    monkeypatch.setattr(Store, "read_tensor", refuse)
    assert planned(capsys, pristine.archive, "--out", tmp_path / "new")["upper"]["units"]


def test_options_narrow_the_plan_as_they_narrow_the_analysis(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = planned(capsys, pristine.archive, "--out", tmp_path / "new")["upper"]
    last = planned(capsys, pristine.archive, "--out", tmp_path / "new", "--steps", "last")["upper"]
    only = planned(
        capsys, pristine.archive, "--out", tmp_path / "n", "--analyzers", "weight_spectra", "--include", "*q*"
    )
    assert last["checkpoints"] < everything["checkpoints"] and last["units"] < everything["units"]
    assert only["upper"]["units"] < last["units"] and "intruders" not in only["upper"]["statistics"]


def test_the_lower_bound_is_of_contents_that_never_change(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(capsys, pristine.archive, "--out", tmp_path / "new")
    upper, lower = plan["upper"], plan["lower"]
    assert lower["units"] < upper["units"] and lower["tensor_bytes"] < upper["tensor_bytes"]
    assert lower["read_bytes"] == upper["read_bytes"]  # files are read either way: only their digests tell


def test_an_analysis_begins_with_the_seconds_of_the_plan(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both speak from one model; catches a second one."""
    from flows.cli.words.console import duration

    plan = planned(capsys, pristine.archive, "--out", tmp_path / "new")
    assert run(["analyze", str(pristine.archive), "--out", str(tmp_path / "new"), "--no-flow"]) in (0, 3)
    assert f"about {duration(plan['upper']['phases']['compute'])} on one core" in capsys.readouterr().out


def test_a_plan_for_people_says_what_it_assumes(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["plan", str(pristine.archive), "--out", str(tmp_path / "new"), "--gpu", "H200", "--workers", "3"]) == 0
    said = capsys.readouterr().out
    for words in ("To read", "To store", "total", "3 workers", "one H200 (data sheet)", "an upper bound"):
        assert words in said
    assert "reference machine" in said


def test_a_plan_counts_the_trials_of_searches_as_units(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upper = planned(capsys, pristine.archive, "--out", tmp_path / "new")["upper"]
    assert upper["further"] > 0, "no search in this plan: the test shows nothing"
    capsys.readouterr()
    assert run(["plan", str(pristine.archive), "--out", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    total = f"{upper['units'] + upper['further']:,}"
    assert f"To compute: {total} units, about {upper['further']} of them" in said
    assert re.search(rf"^total +{total} ", said, re.MULTILINE)


def test_paths_through_weight_space_are_priced_and_no_guess(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upper = planned(capsys, pristine.archive, "--out", tmp_path / "new")["upper"]
    assert upper["guesses"] == [] and upper["statistics"]["weight_trajectory"]["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to plan"),
        (("RUNS", "--config", "c.json"), "give one"),
        (("RUNS", "--adapter-rank", "4"), "--config FILE"),
        (("RUNS", "--gpu", "abacus"), "known: a10"),
        (("--config", "missing.json"), "missing.json"),
    ],
)
def test_wrong_words_are_told(
    pristine: Analysed, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    given = [str(pristine.archive) if word == "RUNS" else word for word in arguments]
    assert words in complaint(capsys, *given)


def test_a_damaged_calibration_is_named_with_the_way_out(
    pristine: Analysed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cache/varve/calibration.json"
    path.parent.mkdir(parents=True)
    for text in ("{", '{"format": 1}', '{"format": 99}', "[]"):
        path.write_text(text)
        said = complaint(capsys, pristine.archive)
        assert str(path) in said and "--calibrate" in said


def test_a_calibration_is_kept_with_machine_versions_and_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.compute import calibration, probe

    monkeypatch.setattr(probe, "SIDES", (16, 32))
    monkeypatch.setattr(probe, "_KIND_SECONDS", 0.01)
    monkeypatch.setattr(probe, "_start", lambda: 1.5)
    assert calibration.current() == calibration.reference()
    kept = planned(capsys, "--calibrate")
    assert json.loads((tmp_path / "cache/varve/calibration.json").read_text()) == kept
    found = calibration.current()
    assert found.measured and found.handling.start == 1.5
    assert found.machine["cores"] and found.software["torch"] and set(found.rates["svd"]) == {16, 32}
    # Gaussian weights: the high byte of bfloat16 compresses, its mantissa does not
    assert 0.5 < found.ratios["bfloat16"] < found.ratios["float32"] <= 1.01


def write_config(folder: Path, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**TINY, **more}))
    return path


def test_a_config_alone_gives_the_bytes_of_its_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path / "tiny")
    plan = planned(capsys, "--config", path, "--checkpoints", 7, "--dtype", "bfloat16")["models"][0]
    assert plan["name"] == "tiny"
    assert plan["checkpoints"] == 7 and plan["read_bytes"] == 7 * 2 * PARAMETERS


def test_adapters_on_paper_are_small_and_bring_their_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path / "tiny")
    plan = planned(capsys, "--config", path, "--checkpoints", 3, "--adapter-rank", 4, "--dtype", "float32")["models"][0]
    factors = 2 * 4 * (2 * (32 + 32) + 2 * (16 + 32) + 3 * (32 + 64))
    assert plan["checkpoints"] == 4 and plan["read_bytes"] == 4 * (PARAMETERS + 3 * factors)
    assert plan["statistics"]["intruders"]["units"] == 3 * 2 * 7


def test_many_checkpoints_are_continued_from_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Continuing from four and five checkpoints equals planning all nine, as costs grow by the step."""
    from pipeline.analysis import paper_plans

    path = write_config(tmp_path / "tiny")
    continued = planned(capsys, "--config", path, "--checkpoints", 9)["models"][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_plans, "SAMPLED", 9)
        whole = planned(capsys, "--config", path, "--checkpoints", 9)["models"][0]
    for name in ("units", "read_bytes", "checkpoints"):
        assert continued[name] == whole[name]
    assert continued["flops"] == pytest.approx(whole["flops"])
    assert continued["phases"]["total"] == pytest.approx(whole["phases"]["total"], rel=0.05)  # groups are cut elsewhere


def test_a_list_of_models_is_planned_together_and_a_wrong_key_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"models": [{"name": "a", "config": TINY, "checkpoints": 2, "runs": 3}]}))
    assert planned(capsys, "--config", models)["models"][0]["checkpoints"] == 6
    models.write_text(json.dumps({"models": [{"name": "a", "config": TINY, "checkpoint": 2}]}))
    assert "models.0.checkpoint" in complaint(capsys, "--config", models)
    models.write_text(json.dumps({"hidden_size": 3}))
    assert "model_type" in complaint(capsys, "--config", models)


def test_the_models_of_the_documentation_have_the_sizes_they_are_known_for() -> None:
    """Catches a slip in a number of a config: parameters of the published models, in millions."""
    from pipeline.analysis.paper_plans import read_models
    from pipeline.models.shapes import headers_of

    folder = Path(__file__).parents[3] / "docs/paper-plans"
    known = {
        "pythia-70m": 70.43,
        "pythia-410m": 405.3,
        "pythia-6.9b": 6857.3,
        "olmoe-1b-7b": 6919.2,
        "llama-70b-lora": 70553.7,
    }
    for name in ("pythia", "olmoe-7b", "llama-70b"):
        for model in read_models(folder / f"{name}.yaml", None, None, None):
            if model.name in known:
                sizes = [t.nbytes / 2 for t in headers_of(model.config, "bfloat16", model.name)]
                assert sum(sizes) / 1e6 == pytest.approx(known[model.name], rel=2e-4), model.name
