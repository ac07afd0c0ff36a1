"""Files of an archive that are made to harm: each costs no more than itself, within the stated limits."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from analyzers.errors import ArchiveError
from pipeline.analysis.intake import layout_of
from pipeline.archive import open_archive, resolve_base
from pipeline.archive.formats import recognise, scan
from pipeline.archive.formats.pickle_data import read_pickle
from pipeline.archive.guarded import boundary, open_regular, short
from pipeline.archive.jsonfile import MAX_VALUES, read_json
from pipeline.archive.module_patterns import names_module

SHAPE = (4, 3)


def checkpoint(folder: Path, config: Any = None) -> Path:
    """A folder of one good checkpoint."""
    folder.mkdir(parents=True)
    save_file({"layers.0.attn.q_proj.weight": np.ones(SHAPE, "f4")}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def adapter(folder: Path, **settings: Any) -> Path:
    """A LoRA adapter of one module."""
    folder.mkdir(parents=True)
    factors = {"A": (2, SHAPE[1]), "B": (SHAPE[0], 2)}
    name = "base_model.model.fc.lora_{}.weight"
    save_file({name.format(x): np.ones(s, "f4") for x, s in factors.items()}, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def torch_file(path: Path, state_pickle: bytes) -> Path:
    """A torch zip with this pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", state_pickle)
    return path


# -- what is opened


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/proc/self/environ", "/sys/kernel/uevent_seqnum", "folder"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer_state.json", "step9.pt", "other"])
def test_only_regular_files_are_opened(name: str, kind: str, link: bool, tmp_path: Path) -> None:
    checkpoint(tmp_path / "a" / "checkpoint-1")
    place = tmp_path / "a" / "checkpoint-2"
    if name == "model.safetensors":
        place.mkdir()
    else:
        checkpoint(place)
    if kind.startswith("/"):
        if not Path(kind).exists():
            pytest.skip(f"no {kind} here")
        (place / name).symlink_to(kind)
    else:
        real = tmp_path / "elsewhere" if link else place / name
        if kind == "folder":
            real.mkdir()
        else:
            os.mkfifo(real)
        if link:
            (place / name).symlink_to(real)
    archive = open_archive(tmp_path / "a", "a")
    assert any(c.step == 1 for run in archive.runs for c in run.checkpoints)
    if kind != "folder":
        with pytest.raises((ArchiveError, OSError)):
            open_regular(place / name)


def test_a_secret_behind_a_link_is_never_quoted(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("hf_SECRETSECRETSECRET")
    (tmp_path / "docker.json").write_text('{"auths": "hf_SECRETSECRETSECRET"}')
    for step, name in enumerate(("model.safetensors", "pytorch_model.bin", "config.json", "trainer_state.json")):
        folder = checkpoint(tmp_path / "a" / f"checkpoint-{step}")
        for target in (secret, tmp_path / "docker.json"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)
            archive = open_archive(tmp_path / "a", "a")
            assert "SECRET" not in repr(archive)
            assert "hf_" not in repr(archive)


def test_a_config_behind_a_link_out_of_the_archive_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auth": 1}')
    folder = checkpoint(tmp_path / "a" / "checkpoint-1")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    (run,) = open_archive(tmp_path / "a", "a").runs
    assert run.checkpoints[0].config == {}
    assert "outside the archive" in run.checkpoints[0].problems[0].reason


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    snapshot = checkpoint(tmp_path / "models--a--b" / "snapshots" / "abc")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (blobs / "1").write_text('{"n_head": 2}')
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (run,) = open_archive(snapshot, "a").runs
    assert run.checkpoints[0].config == {"n_head": 2}


@pytest.mark.parametrize("target", ["/", "..", "../..", "/proc"])
def test_a_link_to_a_folder_around_the_archive_is_not_searched(target: str, tmp_path: Path) -> None:
    root = tmp_path / "x" / "a"
    checkpoint(root / "checkpoint-1")
    checkpoint(tmp_path / "x" / "other" / "checkpoint-5")
    (root / "link").symlink_to(target)
    archive = open_archive(root, "a")
    assert [run.id for run in archive.runs] == ["a"]
    assert [problem.path for problem in archive.problems] == ["link"]


def test_links_out_of_the_archive_reach_a_bounded_number_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.archive.walk.MAX_LINKED_FOLDERS", 5)
    checkpoint(tmp_path / "a" / "checkpoint-1")
    for number in range(9):
        (tmp_path / "big" / str(number)).mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "big")
    archive = open_archive(tmp_path / "a", "a")
    assert any("more than 5 folders" in problem.reason for problem in archive.problems)


# -- the boundary


@pytest.mark.parametrize("error", [ValueError("x"), RecursionError(), MemoryError(), TypeError(), ZeroDivisionError()])
def test_whatever_a_parser_raises_is_an_error_of_that_file(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"model\.pt"), boundary(tmp_path / "model.pt"):
        raise error


def test_a_parser_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    inner = boundary(tmp_path / "inner", 0.1)
    with boundary(tmp_path / "outer", 0.5), pytest.raises(ArchiveError, match=r"more than 0\.1 s"), inner:
        while True:
            pass
    # What the inner file took is not charged to the outer one.
    with boundary(tmp_path / "after", 0.5):
        until = time.thread_time() + 0.25
        while time.thread_time() < until:
            pass


CONFIGS = {
    "a huge number": '{"num_attention_heads": ' + "9" * 4000 + "}",
    "a number beyond Python's limit": '{"num_attention_heads": ' + "9" * 5000 + "}",
    "no number": '{"num_attention_heads": "²"}',
    "deep": '{"a":' * 900 + "1" + "}" * 900,
    "deeper": "[" * 100_000,
    "many": "[" + "0," * (MAX_VALUES + 10) + "0]",
    "negative": '{"num_attention_heads": -3, "head_dim": 0}',
    "lists": '{"text_config": [], "model_type": [1], "attn_config": "x", "num_attention_heads": [2]}',
    "surrogates": '{"\\ud800": "a\\u0000b"}',
}


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "trainer_state.json"])
@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS.keys())
def test_an_absurd_json_file_costs_no_more_than_its_checkpoint(text: str, name: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "good" / "checkpoint-1")
    bad = (
        adapter(tmp_path / "bad" / "checkpoint-1") if name[0] == "a" else checkpoint(tmp_path / "bad" / "checkpoint-1")
    )
    (bad / name).write_text(text)
    archive = open_archive(tmp_path, "a")
    assert "a/good" in [run.id for run in archive.runs]
    for run in archive.runs:
        for one in run.checkpoints:
            layout_of(one)
            json.dumps(dict(one.config))


def test_a_layout_that_cannot_be_made_lists_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr("pipeline.archive.describe", broken, raising=False)
    (run,) = open_archive(checkpoint(tmp_path / "a" / "checkpoint-1").parent, "a").runs
    layout = layout_of(run.checkpoints[0])
    assert layout.matrices == ()
    assert "too large" in layout.unmeasured[0].reason


def test_a_pickled_config_keeps_only_numbers_and_words_of_ordinary_size(tmp_path: Path) -> None:
    state = {"model": {"w.weight": torch.ones(SHAPE)}, "config": {"n_head": 2, "huge": 10**2000, "long": "x" * 10**6}}
    torch.save(state, tmp_path / "step1.pt")
    (run,) = open_archive(tmp_path, "a").runs
    assert run.checkpoints[0].config == {"n_head": 2}


# -- pickles and zips

SHARED = b"N" + b"2\x86" * 60
PICKLES = {
    "shared leaves": SHARED + b".",
    "shared leaves as a key": b"}" + SHARED + b"Ns.",
    "a dict in itself": b"\x80\x02}q\0X\x05\0\0\0modelh\0s.",
    "a number of 16 MB": b"\x80\x02\x8b\0\0\0\x01" + bytes(1 << 24) + b".",
    "a list that is no list": b"NNa.",
    "a persistent id of nothing": b"NQ.",
    "a million empty lists": b"(" + b"]" * 1_000_000 + b"l.",
    "more opcodes than are taken": b"N0" * 2_100_000 + b"N.",
    "a memo of two billion": b"Nr\xff\xff\xff\x7f.",
    "text that claims four gigabytes": b"X\xff\xff\xff\xff.",
}


@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES.keys())
def test_a_hostile_pickle_is_a_finding_of_its_file(data: bytes, tmp_path: Path) -> None:
    checkpoint(tmp_path / "good" / "checkpoint-1")
    torch_file(tmp_path / "bad" / "step1.pt", data)
    archive = open_archive(tmp_path, "a")
    assert [run.id for run in archive.runs] == ["a/good"]
    assert all(len(str(problem)) < 3000 for problem in archive.problems)


def test_a_model_that_holds_itself_beside_its_tensors_ends(tmp_path: Path) -> None:
    state: dict[str, Any] = {"bias": torch.ones(3)}
    state["model"] = state
    torch.save(state, tmp_path / "step1.pt")
    assert list(scan(tmp_path / "step1.pt").places) == ["bias"]


def test_the_text_of_a_value_is_short_whatever_it_holds() -> None:
    shared: Any = None
    for _ in range(60):
        shared = (shared, shared)
    for value in (shared, 10**100_000, "x" * 10**6, [[["y" * 999] * 99] * 99] * 99, {"k" * 9999: shared}):
        assert len(short(value)) < 20_000


@pytest.mark.parametrize("shape", [7, "ab", (-1, 2), (2**70,), ((1,), 2), (1,) * 40, None])
def test_a_shape_that_is_none_is_a_finding_of_its_tensor(shape: Any, tmp_path: Path) -> None:
    class Rebuilt:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Stored(), 0, shape, (1,), False, {})

    class Stored:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, Stored) else None

    with (tmp_path / "data.pkl").open("wb") as file:
        Pickler(file, 2).dump({"w": Rebuilt(), "x": {"y": Rebuilt()}})
    contents = scan(torch_file(tmp_path / "step1.pt", (tmp_path / "data.pkl").read_bytes()), "torch-zip")
    assert [problem.tensor for problem in contents.problems] == ["w", "x.y"]


def test_a_compressed_member_counts_by_what_it_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "step1.pt"
    torch.save({"w.weight": torch.zeros(SHAPE)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "step2.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    data = bytearray((tmp_path / "step2.pt").read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"data/0"))
    data[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "step2.pt").write_bytes(data)
    contents = open_archive(tmp_path, "a")
    assert "claim to unpack to" in str(contents.problems[0])


def test_a_list_of_a_million_members_is_refused(tmp_path: Path) -> None:
    entry = b"PK\x01\x02" + bytes(24) + b"\x20\0" + bytes(16) + b"a" * 32
    count = 17 * 2**20 // len(entry)
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff\xff\xff" + (count * len(entry)).to_bytes(4, "little") + bytes(6)
    (tmp_path / "step1.pt").write_bytes(b"PK\x03\x04" + bytes(26) + entry * count + end)
    assert "refused" in recognise(tmp_path / "step1.pt").fault


# -- names and patterns


@pytest.mark.parametrize(
    "name", ["layers.².weight", "layers.1²3.mlp.weight", f"layers.{'9' * 300}.weight", "experts.².w1.weight"]
)
def test_digits_that_are_no_numbers_are_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    save_file({name: np.ones(SHAPE, "f4")}, tmp_path / "checkpoint-1" / "model.safetensors")
    (run,) = open_archive(tmp_path, "a").runs
    (matrix,) = layout_of(run.checkpoints[0]).matrices
    assert matrix.layer is None


@pytest.mark.parametrize(
    "pattern", ["(a|a)*b", ".*.*.*.*.*.*x", "(a?){30}a{30}b", "(?:a|aa|aaa)*c", "(((a|b)|c)*d|e)*f"]
)
def test_a_pattern_takes_time_that_grows_with_its_length(pattern: str) -> None:
    assert names_module(pattern, "a" * 200) is False


@pytest.mark.parametrize(
    ("pattern", "module", "matches"),
    [
        ("q_proj", "model.layers.0.q_proj", True),
        ("q_proj", "model.layers.0.xq_proj", False),
        (r".*\.(q|k)_proj", "layers.0.k_proj", True),
        (r"layers\.(0|1[0-5])\.mlp\..*", "model.layers.13.mlp.up_proj", True),
        (r"layers\.\d{1,2}\.mlp", "layers.100.mlp", False),
        ("^layers.*", "model.layers.1", False),
        ("up_proj|down_proj", "a.down_proj", True),
        ("[^.]*_proj", "a.b.up_proj", True),
        ("v_proj$", "a.v_proj", True),
    ],
)
def test_patterns_match_as_in_peft(pattern: str, module: str, matches: bool) -> None:
    assert names_module(pattern, module) is matches


@pytest.mark.parametrize("pattern", ["(?<=a)b", r"(a)\1", "(?i)a", "a{3000}{9}", "(", "x" * 2000])
def test_a_pattern_that_cannot_be_followed_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|supported|refused|states|repeats"):
        names_module(pattern, "a")


# -- bases


def cache(root: Path) -> Path:
    model = root / "hub" / "models--org--base"
    checkpoint(model / "snapshots" / "abc123")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc123")
    (root / "token").write_text("hf_SECRETSECRETSECRET")
    (root / "hub" / "models--org--base" / "refs" / "stolen").symlink_to(root / "token")
    return root


@pytest.mark.parametrize(
    "revision", ["../../../token", "/etc/hostname", "..", "stolen", "main/../../x", "a\0b", "", "~"]
)
@pytest.mark.parametrize("name", ["org/base", "org/..", "../hub", "org/base/../../..", "..", "a/b/c"])
def test_a_revision_never_leads_out_of_the_cache(name: str, revision: str, tmp_path: Path) -> None:
    hub = cache(tmp_path / "hf")
    adapter(tmp_path / "runs" / "lora" / "checkpoint-1", base_model_name_or_path=name, revision=revision)
    archive = open_archive(tmp_path / "runs", "a")
    try:
        text = repr(resolve_base(archive.runs[0], archive, environ={"HF_HOME": str(hub)}))
    except ArchiveError as error:
        text = str(error)
    assert "SECRET" not in text


@pytest.mark.parametrize(
    "base", ["token", "docs", "/etc/passwd", "/dev/zero", "/proc/self/environ", "~", "/", "\0", "x" * 9999]
)
def test_a_base_that_an_adapter_names_is_opened_only_as_weights(base: str, tmp_path: Path) -> None:
    (tmp_path / "docs" / "deep" / "deeper").mkdir(parents=True)
    for secret in ("token", "docs/model.bin", "docs/deep/model.bin"):
        (tmp_path / secret).write_text("hf_SECRETSECRETSECRET")
    checkpoint(tmp_path / "docs" / "deep" / "deeper" / "still")
    named = str(tmp_path / base) if base in ("token", "docs") else base
    adapter(tmp_path / "runs" / "lora" / "checkpoint-1", base_model_name_or_path=named)
    archive = open_archive(tmp_path / "runs", "a")
    with pytest.raises(ArchiveError) as refused:
        resolve_base(archive.runs[0], archive, environ={"HF_HOME": str(tmp_path / "none")})
    assert "hf_" not in str(refused.value)
    assert "still" not in str(refused.value)


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "..", "a/b", "a\\b", "\0", "", 7])
def test_an_index_names_files_beside_it_only(file: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hf_SECRETSECRETSECRET")
    folder = tmp_path / "a"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": file}}))
    archive = open_archive(folder, "a")
    assert not archive.runs
    assert "SECRET" not in repr(archive)


def test_a_large_json_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ArchiveError, match="limit"):
        read_json(path)


def test_pickles_within_the_limits_are_read() -> None:
    value = {"a": [1, 2.5, "x", b"y", None, (1, 2)], ("k", 1): 10**200}
    assert read_pickle(pickle.dumps(value)) == value


def test_of_a_folder_that_an_adapter_names_only_what_is_called_weights_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = checkpoint(tmp_path / "home")
    (place / "diary").write_bytes(b"secret" * 100)
    adapter(tmp_path / "runs" / "lora" / "checkpoint-1", base_model_name_or_path=str(place))
    archive = open_archive(tmp_path / "runs", "a")
    opened: list[str] = []

    def watched(path: Path, buffering: int = -1) -> Any:
        opened.append(path.name)
        return open_regular(path, buffering)

    monkeypatch.setattr(sys.modules["pipeline.archive.formats.recognise"], "open_regular", watched)
    base = resolve_base(archive.runs[0], archive, environ={"HF_HOME": str(tmp_path / "none")})
    assert base.checkpoint.path == place / "model.safetensors"
    assert "model.safetensors" in opened
    assert "diary" not in opened
