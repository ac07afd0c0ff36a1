"""Names that are no text become text once, at the edge of the archive, and the files are found again."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pipeline.archive import open_archive, open_tensors
from pipeline.archive.text import encodable, encodable_data, path_text, real_path, shown, visible

ANY_TEXT = st.text(st.characters(), max_size=12)
"""With surrogates, NUL and control characters."""


@given(ANY_TEXT)
def test_a_visible_name_is_printable_utf8_and_stays_as_it_is(name: str) -> None:
    text = visible(name)
    assert text.encode("utf-8").decode("utf-8") == text
    assert "\x00" not in text and "\n" not in text
    assert visible(text) == text
    assert encodable(text) == text
    if name.isprintable():
        assert text == name


@given(ANY_TEXT)
def test_lines_for_a_terminal_keep_their_breaks_and_nothing_that_steers_it(text: str) -> None:
    lines = shown(text)
    assert "".join(visible(part) for part in re.split(r"[\t\n]", lines)) == re.sub(r"[\t\n]", "", lines)
    assert [lines.count(mark) for mark in "\n\t"] == [text.count(mark) for mark in "\n\t"]
    assert shown(lines) == lines


@given(st.binary(min_size=1, max_size=12))
def test_the_bytes_of_a_file_name_are_seen_one_by_one(raw: bytes) -> None:
    text = visible(os.fsdecode(raw))
    assert text.encode("utf-8").decode("utf-8") == text
    for byte in raw:
        if byte < 0x20:
            assert f"\\x{byte:02x}" in text


def test_escapes_are_those_that_people_know() -> None:
    assert visible(os.fsdecode(b"mod\xe9le")) == r"mod\xe9le"
    assert visible("a\x00b\ud800\n") == r"a\x00b\ud800\x0a"
    assert visible("模型 é") == "模型 é"
    assert encodable("two\nlines\udce9") == "two\nlines" + r"\xe9"
    assert encodable_data({"a\x00": ["\ud800", 1, None, {"b": ("\udce9",)}]}) == {
        r"a\x00": [r"\ud800", 1, None, {"b": (r"\xe9",)}]
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.binary(min_size=1, max_size=8).filter(lambda b: not set(b) & {0, 0x2F} and b not in (b".", b"..")),
        min_size=1,
        max_size=3,
    )
)
def test_a_path_as_text_leads_back_to_the_file(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("path")
    path = folder.joinpath(*map(os.fsdecode, parts))
    path.mkdir(parents=True)
    assert real_path(path_text(path)).samefile(path)
    assert real_path(path) == path


def test_a_path_that_is_not_there_becomes_the_bytes_that_were_meant(tmp_path: Path) -> None:
    wanted = tmp_path / os.fsdecode(b"caf\xe9") / "new"
    assert real_path(path_text(wanted)) == wanted
    assert real_path(tmp_path / "plain") == tmp_path / "plain"


def write_safetensors(path: Path, names: list[str], first: int = 0) -> None:
    """By hand: the library refuses such names. Tensor i is full of `first` + i."""
    header, data = {}, b""
    for index, name in enumerate(names, first):
        values = np.full((4, 3), index, np.float32).tobytes()
        header[name] = {"dtype": "F32", "shape": [4, 3], "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


NAMES = ["layers.0.w\x00eight", "layers.1.\ud800.weight", "layers.2.\udce9.weight", "layers.3.gewicht\n.weight"]


@pytest.mark.parametrize("form", ["safetensors", "torch", "sharded"])
def test_tensors_are_read_under_their_visible_names(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    if form == "torch":
        tensors = {name: torch.full((4, 3), float(i)) for i, name in enumerate(NAMES)}
        torch.save(tensors, folder / "pytorch_model.bin")
    elif form == "safetensors":
        write_safetensors(folder / "model.safetensors", NAMES)
    else:
        write_safetensors(folder / "model-1.safetensors", NAMES[:2])
        write_safetensors(folder / "model-2.safetensors", NAMES[2:], first=2)
        places = {n: f"model-{1 + (i > 1)}.safetensors" for i, n in enumerate(NAMES)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text('{"model_type": "a\\ud800", "b\\u0000": 1}')
    ((checkpoint,),) = ([run.checkpoints for run in open_archive(tmp_path).runs],)
    (one,) = checkpoint
    assert [t.name for t in one.tensors] == [visible(name) for name in NAMES] and not one.problems
    assert one.config == {"model_type": r"a\ud800", r"b\x00": 1}
    with open_tensors(one) as tensors_of:
        for index, name in enumerate(NAMES):
            assert (tensors_of.read(visible(name)) == index).all()


def test_two_names_that_look_alike_as_text_are_one_tensor_and_a_problem(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    write_safetensors(tmp_path / "checkpoint-1" / "model.safetensors", ["a.\udce9", r"a.\xe9"])
    (run,) = open_archive(tmp_path).runs
    (checkpoint,) = run.checkpoints
    assert [t.name for t in checkpoint.tensors] == [r"a.\xe9"]
    assert "another tensor has the same name" in str(checkpoint.problems[0])


def test_runs_checkpoints_and_problems_in_folders_of_bytes(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"mod\xe9le") / "checkpoint-3"
    folder.mkdir(parents=True)
    save_file({"fc.weight": np.ones((4, 3), np.float32)}, folder / "model.safetensors")
    (folder.parent / "checkpoint-4").mkdir()
    (folder.parent / "checkpoint-4" / "model.safetensors").write_bytes(b"")
    archive = open_archive(tmp_path, "a")
    (run,) = archive.runs
    assert run.id == r"a/mod\xe9le" and run.path.is_dir()
    assert run.checkpoints[0].files[0].path == r"mod\xe9le/checkpoint-3/model.safetensors"
    assert archive.problems[0].path == r"mod\xe9le/checkpoint-4/model.safetensors"
