"""Tasks from files: what they read, and what is wrong with bad ones, said before any training."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from analyzers.errors import ParameterError, Unmeasurable
from analyzers.intrinsic_dimension.controls import chance, controlled
from analyzers.intrinsic_dimension.task import Built, Data, Training
from analyzers.models import Models, WholeCheckpoint
from pipeline.models.tasks import read_task
from tests.analyzers.intrinsic_dimension.trials import OneTask, checkpoint, mlp

CLASSIFICATION: dict[str, Any] = {"name": "toy", "kind": "classification", "data": "toy.npz", "model": "mlp"}


def npz(folder: Path, n: int = 60, classes: int = 3, **arrays: np.ndarray) -> Path:
    draw = np.random.default_rng(0)
    content = {"inputs": draw.standard_normal((n, 5)).astype(np.float32), "labels": np.arange(n) % classes} | arrays
    np.savez(folder / "toy.npz", **content)
    return folder / "toy.npz"


def write(folder: Path, **told: Any) -> str:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(told))
    return str(path)


def idx(path: Path, values: np.ndarray, squeeze: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    raw = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if squeeze else raw)


def test_the_digits_ship_with_disjoint_splits() -> None:
    name, _, task = read_task("digits")
    splits = [task.data(s) for s in ("train", "tune", "score")]
    assert name == "digits" and sum(map(len, splits)) == 1797
    assert [len(s) for s in splits] == [1078, 270, 449]
    assert float(splits[0].inputs[0].max()) == 1.0 and splits[0].inputs[0].shape[1:] == (64,)


def test_the_digest_is_of_description_and_data_and_not_of_their_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    npz(tmp_path / "a")
    npz(tmp_path / "b")
    first = read_task(write(tmp_path / "a", **CLASSIFICATION))[1]
    assert read_task(write(tmp_path / "b", **CLASSIFICATION))[1] == first
    assert read_task(write(tmp_path / "b", **CLASSIFICATION, training={"steps": 7}))[1] != first
    npz(tmp_path / "b", labels=np.roll(np.arange(60) % 3, 1))
    assert read_task(write(tmp_path / "b", **CLASSIFICATION))[1] != first


@pytest.mark.parametrize("squeeze", [False, True])
def test_idx_files_are_read_as_images(tmp_path: Path, squeeze: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28))
    for name, values in (("x", images), ("y", np.arange(40) % 4)):
        idx(tmp_path / name, values, squeeze)
    part = {"inputs": "x", "labels": "y"}
    told = CLASSIFICATION | {"data": {"train": part, "score": part}, "model": "lenet", "scale": 255}
    _, _, task = read_task(write(tmp_path, **told))
    data = task.data("score")
    assert data.inputs[0].shape == (40, 1, 28, 28)
    torch.testing.assert_close(data.inputs[0][3, 0], torch.tensor(images[3] / 255, dtype=torch.float32))
    assert len(task.data("train")) == 36 and len(task.data("tune")) == 4


@pytest.mark.parametrize(
    ("change", "arrays", "wrong"),
    [
        ({}, {"labels": np.zeros(60, dtype=int)}, "all 60 labels are 0"),
        ({}, {"labels": np.arange(60) % 3 - 1}, "labels must start at 0, but the smallest is -1"),
        ({}, {"labels": np.arange(59) % 3}, "do not match 59 labels"),
        ({}, {"labels": (np.arange(60) % 3) + 0.5}, "labels must be integers"),
        ({}, {"inputs": np.full((60, 5), np.nan)}, "300 entries of the inputs are NaN"),
        ({"inputs": "pixels"}, {}, "no array 'pixels'; there are: inputs, labels"),
        ({"data": "other.npz"}, {}, "there is no .*other.npz"),
        ({"model": "resnet"}, {}, "'resnet' is not mlp, lenet"),
        ({"kind": "regression"}, {}, "kind 'regression' is unknown; known: classification"),
        ({"trainning": {}}, {}, "did you mean 'training'"),
        ({"training": {"step": 5}}, {}, "did you mean 'steps'"),
        ({"training": {"steps": 0}}, {}, "greater than or equal to 1"),
    ],
)
def test_bad_data_and_bad_descriptions_are_named(
    tmp_path: Path, change: dict[str, Any], arrays: dict[str, np.ndarray], wrong: str
) -> None:
    npz(tmp_path, **arrays)
    with pytest.raises(ParameterError, match=wrong):
        read_task(write(tmp_path, **(CLASSIFICATION | change)))


def test_an_unknown_task_tells_what_there_is() -> None:
    with pytest.raises(ParameterError, match=r"'digit' is not a task: .*\(digits\)"):
        read_task("digit")
    with pytest.raises(ParameterError, match=r"--task no\.such:task: .* cannot be imported"):
        read_task("no.such:task")


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"PK\3\4 something else")
    idx(tmp_path / "y", np.arange(4), False)
    told = CLASSIFICATION | {"data": {"inputs": "x", "labels": "y"}}
    with pytest.raises(ParameterError, match="x is not an idx file"):
        read_task(write(tmp_path, **told))
    idx(tmp_path / "x", np.zeros((4, 2, 2)), False)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-3])
    with pytest.raises(ParameterError, match=r"announces 16 bytes for shape \(4, 2, 2\), but there are 13"):
        read_task(write(tmp_path, **told))


def test_a_checkpoint_that_does_not_fit_the_task_says_why(tmp_path: Path) -> None:
    _, _, task = read_task("digits")
    models = OneTask(task)
    for widths, wrong in (
        ((32, 10), "takes 32 inputs, but the examples of task digits have 64"),
        ((64, 9), "9 outputs"),
    ):
        with pytest.raises(Unmeasurable, match=wrong):
            task.build(checkpoint(mlp(widths)), models, 0, False)
    broken = mlp()
    broken["2.weight"] = torch.ones(10, 63)
    with pytest.raises(Unmeasurable, match=r"2.weight takes 63 inputs, but 0.weight before it gives 64"):
        task.build(checkpoint(broken), models, 0, False)


def test_the_net_computes_what_the_trained_one_did() -> None:
    state = mlp((64, 32, 16, 10), seed=3)
    _, _, task = read_task("digits")
    net = task.build(checkpoint(state), OneTask(task), 0, False).module
    x = torch.randn(7, 64)
    wanted = x
    for i in (0, 2, 4):
        wanted = torch.nn.functional.linear(wanted, state[f"{i}.weight"], state[f"{i}.bias"])
        wanted = torch.relu(wanted) if i < 4 else wanted
    torch.testing.assert_close(net(x), wanted)
    fresh = task.build(checkpoint(state), OneTask(task), 1, True).module
    assert not torch.allclose(fresh(x), wanted)
    assert torch.equal(fresh(x), task.build(checkpoint(state), OneTask(task), 1, True).module(x))


def test_controls_change_what_they_say_and_nothing_else() -> None:
    _, _, task = read_task("digits")
    plain = controlled(task, "none")
    labels = controlled(task, "shuffled_labels")
    assert torch.equal(labels.train.inputs[0], plain.train.inputs[0])
    assert sorted(labels.train.targets.tolist()) == sorted(plain.train.targets.tolist())
    agree = float((labels.train.targets == plain.train.targets).float().mean())
    assert agree < 0.2  # a tenth by chance; 1078 examples
    rows = {tuple(row.tolist()): int(y) for row, y in zip(labels.train.inputs[0], labels.train.targets, strict=True)}
    assert all(
        rows[tuple(x.tolist())] == int(y) for x, y in zip(labels.score.inputs[0], labels.score.targets, strict=True)
    )
    pixels = controlled(task, "shuffled_inputs")
    assert torch.equal(pixels.train.inputs[0].sort(dim=1).values, plain.train.inputs[0].sort(dim=1).values)
    mean, moved = plain.train.inputs[0].mean(0), pixels.train.inputs[0].mean(0)
    order = [int((mean == value).nonzero()[0]) for value in moved if int((mean == value).sum()) == 1]
    assert order != sorted(order)
    assert 0.09 < chance(task, plain.score) < 0.2


class Own:
    """A user's task, as `--task module:factory` makes it."""

    name, metric, reference_score, training, ensembles = "own", "accuracy", None, Training(steps=3), True

    def data(self, split: str) -> Data:
        return Data((torch.zeros(4, 2),), torch.tensor([0, 1, 0, 1]))

    def build(self, checkpoint: WholeCheckpoint, models: Models, seed: int, random: bool) -> Built:
        return Built(torch.nn.Linear(2, 2))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(-1) == targets).float()

    def shuffled(self, data: Data, seed: int) -> Data:
        return data


def half_a_task() -> object:
    return object()


def test_a_factory_of_the_users_makes_a_task() -> None:
    name, digest, task = read_task("tests.pipeline.models.test_tasks:Own")
    assert name == "own" and len(task.data("train")) == 4
    assert read_task("tests.pipeline.models.test_tasks:Own")[1] == digest
    with pytest.raises(ParameterError, match="object has no name, metric"):
        read_task("tests.pipeline.models.test_tasks:half_a_task")


def vocabulary(folder: Path) -> Path:
    """A word-level tokenizer.json of eight words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "good", "bad", "film", "very", "a", "the"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.save_pretrained(str(folder / "tokenizer"))
    return folder / "tokenizer"


SENTENCES = [("a very good film", "1"), ("the bad film", "0"), ("good", "1"), ("very very bad", "0")] * 10


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_tables_of_sentences_are_read_in_every_format(tmp_path: Path, kind: str) -> None:
    import pandas as pd

    vocabulary(tmp_path)
    table = pd.DataFrame(SENTENCES, columns=["text", "label"])
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        table.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    told = {"name": "t", "kind": "text_classification", "data": path.name, "tokenizer": "tokenizer", "max_tokens": 5}
    _, _, task = read_task(write(tmp_path, **told))
    data = task.data("train")
    assert data.inputs[0].shape == data.inputs[1].shape == (24, 5)
    assert all(int(y) == int(2 in ids.tolist()) for ids, y in zip(data.inputs[0], data.targets, strict=True))
    moved = task.shuffled(data, 3)
    assert torch.equal(moved.inputs[0].sort(dim=1).values, data.inputs[0].sort(dim=1).values)
    assert torch.equal(moved.inputs[0] == 0, data.inputs[0] == 0) and not torch.equal(moved.inputs[0], data.inputs[0])


@pytest.mark.parametrize(
    ("rows", "change", "wrong"),
    [
        (SENTENCES, {"label": "stars"}, "no column 'stars'; it has: text, label"),
        ([("good", "1")] * 20, {}, "all 20 labels are '1'"),
        (SENTENCES, {"tokenizer": "nowhere"}, "tokenizer: there is no .*nowhere"),
        ([*SENTENCES, ("film", "")], {}, "1 of 41 rows have no 'label'"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, rows: list[tuple[str, str]], change: dict[str, str], wrong: str) -> None:
    vocabulary(tmp_path)
    (tmp_path / "d.tsv").write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    told = {"name": "t", "kind": "text_classification", "data": "d.tsv", "tokenizer": "tokenizer"} | change
    with pytest.raises(ParameterError, match=wrong):
        read_task(write(tmp_path, **told))


def test_a_small_transformer_learns_sentences_and_text_from_a_checkpoint(tmp_path: Path) -> None:
    """Both kinds of text task train through a checkpoint's own architecture, in a random subspace."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from analyzers.contract import Context, Observation, Unit
    from analyzers.intrinsic_dimension.landscape import Landscape
    from pipeline.models.build import build_model
    from tests.analyzers.intrinsic_dimension.trials import MATERIAL

    vocabulary(tmp_path)
    (tmp_path / "d.tsv").write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in SENTENCES * 3))
    (tmp_path / "d.txt").write_text(" ".join(a for a, _ in SENTENCES * 5))
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    state = {n: t.detach().clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    held = checkpoint(state)
    told_config = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["GPT2LMHeadModel"]}
    held = WholeCheckpoint(held.run, held.step, held.key, told_config, held.parameters, held.read)

    class Building(OneTask):
        def build(self, checkpoint: WholeCheckpoint, factory: str | None = None) -> torch.nn.Module:
            return build_model(checkpoint, factory)

    common = {"name": "t", "tokenizer": "tokenizer", "training": {"steps": 30, "batch_size": 8, "lr": 0.03}}
    _, _, text = read_task(write(tmp_path, kind="language_modelling", data="d.txt", max_tokens=8, **common))
    unit = Unit(
        (Observation("run", 0, None, None, checkpoint=held),),
        {"phase": "score", "d": 60, "seed": 0, "rate": 0, "budget": 1},
    )
    result = Landscape(MATERIAL).compute(unit, Context(models=Building(text)))
    assert bool(result["is_loss"]) and result["score"][-1] > result["score"][0] + 0.3
    assert np.isnan(result["chance"]) and int(result["n_fresh"]) == 0
