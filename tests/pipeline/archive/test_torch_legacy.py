"""torch's format before 1.6: every tensor bit for bit as torch.load reads it, and nothing in the file executed."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError
from pipeline.archive import open_archive, open_tensors
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats import detect, scan, torch_legacy
from pipeline.archive.formats.torch_tensors import STORAGES
from pipeline.archive.reader import TensorReader
from tests.pipeline.archive.folders import bits, only_run, torch_bits, weights
from tests.pipeline.archive.test_torch_zip import Hostile, random_tensor


def save_legacy(path: Path, state: Any, protocol: int = 2) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    return path


# torch writes these into legacy files, and cannot load them from there.
NOT_LOADED = {dtype for dtype in NUMPY if dtype not in STORAGES.values()}


def assert_reads_as_torch_loads(path: Path, state: dict[str, torch.Tensor]) -> None:
    can_load = all(str(tensor.dtype).removeprefix("torch.") not in NOT_LOADED for tensor in state.values())
    loaded = torch.load(path, weights_only=False) if can_load else state
    assert detect(path) == torch_legacy.NAME
    with TensorReader(path, scan(path)) as tensors:
        assert {header.name for header in tensors.headers} == set(loaded)
        for name, tensor in loaded.items():
            assert bits(tensors.read(name)) == torch_bits(tensor) == torch_bits(state[name]), name


@settings(deadline=None, max_examples=80)
@given(
    dtypes=st.lists(st.sampled_from(sorted(NUMPY)), min_size=1, max_size=4),
    shape=st.lists(st.integers(0, 6), max_size=4).map(tuple),
    permutation=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    tie=st.booleans(),
    protocol=st.integers(2, 5),
    suffix=st.sampled_from([".pt", ".pth.tar", ".th", ".pkl", ".ckpt", ".model", ""]),
)
def test_any_dtype_stride_tie_and_view_is_read_as_torch_loads_it(
    tmp_path_factory: pytest.TempPathFactory,
    dtypes: list[str],
    shape: tuple[int, ...],
    permutation: Any,
    step: int,
    tie: bool,
    protocol: int,
    suffix: str,
) -> None:
    axes = list(range(len(shape)))
    permutation.shuffle(axes)
    state = {}
    for at, dtype in enumerate(dtypes):
        whole = random_tensor(dtype, shape, seed=at)
        view = whole.permute(axes)
        state[f"{at}.whole"] = whole
        state[f"{at}.view"] = view[1::step] if shape and view.shape[0] > 1 else view
        if tie:
            state[f"{at}.tied"] = whole
    assert_reads_as_torch_loads(save_legacy(tmp_path_factory.mktemp("old") / f"w{suffix}", state, protocol), state)


def test_pickles_longer_than_the_first_read_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_legacy, "FIRST_READ", 64)
    state = {f"layer.{n}": torch.randn(2, 3) for n in range(40)}
    assert_reads_as_torch_loads(save_legacy(tmp_path / "w.pt", state), state)


def test_ties_containers_and_steps_are_told_as_of_a_zip_file(tmp_path: Path) -> None:
    shared = torch.randn(5, 4)
    state = {"model": {"embed": shared, "head": shared}, "iteration": 70, "optimizer": {"lr": 0.1}}
    contents = scan(save_legacy(tmp_path / "w.pt", state))
    assert contents.tied == (("embed", "head"),)
    assert contents.steps["iteration"] == 70
    assert any("optimizer" in note for note in contents.notes)


def test_a_pickled_module_is_read_by_its_parameters(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    path = save_legacy(tmp_path / "module.pt", model)
    with TensorReader(path, scan(path)) as tensors:
        for name, tensor in model.state_dict().items():
            assert bits(tensors.read(name)) == torch_bits(tensor)


def test_values_are_read_by_offset_in_blocks(tmp_path: Path) -> None:
    tall = torch.randn(300, 50)
    path = save_legacy(tmp_path / "w.pt", {"w": tall.t(), "other": torch.randn(7)})
    with TensorReader(path, scan(path)) as tensors:
        assert bits(np.concatenate(list(tensors.blocks("w", 1000)))) == torch_bits(tall.t())


def test_legacy_files_are_a_run(tmp_path: Path) -> None:
    for step in (100, 200):
        save_legacy(tmp_path / f"checkpoint_{step}.pth", weights(step))
    run = only_run(tmp_path)
    assert [checkpoint.step for checkpoint in run.checkpoints] == [100, 200]
    with open_tensors(run.checkpoints[1]) as tensors:
        assert bits(tensors.read("fc1.weight")) == torch_bits(weights(200)["fc1.weight"])


def test_a_storage_that_is_a_view_of_another_is_read_at_its_offset(tmp_path: Path) -> None:
    # torch before 0.4 wrote views of storages; torch.load still reads them.
    path = tmp_path / "w.pt"

    class Storage:
        pass

    class View:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor, (Storage(), 1, (2, 2), (2, 1))

    class Writer(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, Storage):
                return "storage", torch.FloatStorage, "17", "cpu", 12, ("view", 3, 6)
            return None

    with path.open("wb") as file:
        for value in (torch_legacy.MAGIC, torch_legacy.PROTOCOL, {"little_endian": True}):
            pickle.dump(value, file, 2)
        Writer(file, protocol=2).dump({"w": View()})
        pickle.dump(["17"], file, 2)
        file.write((12).to_bytes(8, "little") + np.arange(12, dtype="<f4").tobytes())
    assert torch.load(path, weights_only=False)["w"].tolist() == [[4, 5], [6, 7]]
    with TensorReader(path, scan(path)) as tensors:
        assert tensors.read("w").tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, share: float) -> None:
    path = save_legacy(tmp_path / "t.pt", weights())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArchiveError, match=r"t\.pt: truncated"):
        scan(path)


def test_a_storage_of_another_size_than_described_is_damage(tmp_path: Path) -> None:
    path = save_legacy(tmp_path / "w.pt", {"a": torch.ones(5), "b": torch.ones(6)})
    raw = path.read_bytes()
    at = raw.index(torch.ones(5).numpy().tobytes()) - 8
    assert int.from_bytes(raw[at : at + 8], "little") in (5, 6)
    path.write_bytes(raw[:at] + (4).to_bytes(8, "little") + raw[at + 8 :])
    with pytest.raises(
        ArchiveError, match=r"w\.pt: damaged: storage 1 of 2 has 4 elements, but its description says [56]"
    ):
        scan(path)


def test_a_hostile_object_does_not_run_and_does_not_hide_the_weights(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = save_legacy(tmp_path / "h.pt", {"model": weights(), "args": Hostile(marker)})
    with TensorReader(path, scan(path)) as tensors:
        assert bits(tensors.read("fc2.weight")) == torch_bits(weights()["fc2.weight"])
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the attack itself works"


@settings(deadline=None, max_examples=150)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), second=st.floats(0, 1, exclude_max=True))
def test_a_file_with_changed_bytes_is_read_or_is_an_archive_error(
    tmp_path_factory: pytest.TempPathFactory, at: float, byte: int, second: float
) -> None:
    path = save_legacy(tmp_path_factory.mktemp("fuzz") / "f.pt", {"model": weights(), "optimizer": {"lr": 0.1}})
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] = byte
    raw[int(second * len(raw))] = byte
    path.write_bytes(raw)
    try:
        with TensorReader(path, scan(path)) as tensors:
            for header in tensors.headers:
                tensors.read(header.name)
    except ArchiveError:
        pass


def test_quantized_and_sparse_tensors_are_listed_and_the_others_read(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 0, torch.qint8)
    state = {"a": torch.randn(2, 3), "q": quantized, "sparse": torch.eye(3).to_sparse(), "z": torch.randn(4)}
    path = save_legacy(tmp_path / "q.pt", state)
    contents = scan(path)
    assert {problem.tensor for problem in contents.problems} == {"q", "sparse"}
    with TensorReader(path, contents) as tensors:
        for name in ("a", "z"):
            assert bits(tensors.read(name)) == torch_bits(state[name])


def test_torchs_tar_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "ancient.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    archive = open_archive(tmp_path)
    assert [problem.path for problem in archive.problems] == ["ancient.pth"]
    assert "tar format" in archive.problems[0].reason and "load it in torch" in archive.problems[0].hint
