"""torch's zip files: every tensor bit for bit as torch wrote it, and nothing in them executed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzers.errors import ArchiveError
from pipeline.archive.dtypes import NUMPY
from pipeline.archive.formats import scan
from pipeline.archive.reader import TensorReader
from tests.pipeline.archive.folders import bits, save, torch_bits, weights


def reader(path: Path) -> TensorReader:
    return TensorReader(path, scan(path))


def assert_reads_as_torch_wrote(path: Path, state: dict[str, torch.Tensor]) -> None:
    with reader(path) as tensors:
        assert {header.name for header in tensors.headers} == set(state)
        for name, tensor in state.items():
            assert bits(tensors.read(name)) == torch_bits(tensor), name


def random_tensor(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bits at all in the dtype, NaN included."""
    itemsize = NUMPY[dtype].itemsize
    if 0 in shape:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (*shape, itemsize), dtype=np.uint8)
    return torch.from_numpy(raw).view(getattr(torch, dtype)).reshape(shape)


@settings(deadline=None, max_examples=150)
@given(
    dtype=st.sampled_from(sorted(NUMPY)),
    shape=st.lists(st.integers(0, 7), max_size=4).map(tuple),
    permutation=st.randoms(use_true_random=False),
    step=st.integers(1, 3),
    block_bytes=st.integers(1, 400),
)
def test_any_dtype_shape_and_stride_is_read_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    shape: tuple[int, ...],
    permutation: Any,
    step: int,
    block_bytes: int,
) -> None:
    axes = list(range(len(shape)))
    permutation.shuffle(axes)
    whole = random_tensor(dtype, shape, seed=len(shape) + step)
    view = whole.permute(axes)
    if shape and view.shape[0] > 1:
        view = view[1::step]
    path = tmp_path_factory.mktemp("any") / "any.pt"
    torch.save({"whole": whole, "view": view}, path)
    assert_reads_as_torch_wrote(path, {"whole": whole, "view": view})
    with reader(path) as tensors:
        blocks = list(tensors.blocks("view", block_bytes))
        assert bits(np.concatenate(blocks) if shape else blocks[0]) == torch_bits(view)
        row_bytes = blocks[0].nbytes // max(1, len(blocks[0])) if shape else blocks[0].nbytes
        assert all(block.nbytes <= max(block_bytes, row_bytes) for block in blocks)


def test_a_transposed_matrix_wider_than_a_span_is_gathered_in_pieces(tmp_path: Path) -> None:
    tall = torch.randn(3000, 1500)
    path = save(tmp_path / "t.pt", {"w": tall.t(), "part": tall[:, 7:9]})
    with reader(path) as tensors:
        assert bits(tensors.read("w")) == torch_bits(tall.t())
        assert bits(tensors.read("part")) == torch_bits(tall[:, 7:9])
        assert bits(np.concatenate(list(tensors.blocks("w", 100_000)))) == torch_bits(tall.t())


def test_tied_tensors_are_read_and_told(tmp_path: Path) -> None:
    shared = torch.randn(5, 4)
    state = {"embed": shared, "head": shared, "row": shared[1], "other": shared.clone()}
    path = save(tmp_path / "tied.pt", state)
    assert_reads_as_torch_wrote(path, state)
    assert reader(path).tied == (("embed", "head"),)
    assert "tied: embed = head" in scan(path).notes


def test_parameters_subclasses_conjugates_and_negatives_are_read_as_values(tmp_path: Path) -> None:
    values = torch.randn(3, 2, dtype=torch.complex64)
    state = {
        "parameter": torch.nn.Parameter(torch.randn(3, 4)),
        "buffer": torch.nn.Buffer(torch.randn(3)),
        "conjugate": values.conj(),
    }
    assert state["conjugate"].is_conj()
    assert_reads_as_torch_wrote(save(tmp_path / "p.pt", state), state)
    negative = {"negative": values.conj().imag}
    assert negative["negative"].is_neg()
    assert_reads_as_torch_wrote(save(tmp_path / "n.pt", negative), negative)


CONTAINERS: list[Any] = ["model", "state_dict", "model_state_dict", "module", None]


@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_are_found_in_their_container_and_the_rest_is_said_to_be_left(
    tmp_path: Path, container: str | None
) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state: dict[str, Any] = dict(model.state_dict()) if container is None else {container: model.state_dict()}
    state |= {"optimizer": optimizer.state_dict(), "epoch": 3, "global_step": 70, "rng": torch.get_rng_state()}
    contents = scan(save(tmp_path / "c.pt", state))
    assert set(contents.places) - {"rng"} == {"weight", "bias"}
    assert contents.steps["global_step"] == 70
    assert any("optimizer" in note for note in contents.notes)


def test_a_container_in_a_container_is_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pt", {"state_dict": {"module": weights()}, "step": torch.tensor(12)})
    contents = scan(path)
    assert set(contents.places) == set(weights())
    assert contents.steps["step"] == 12


def test_two_models_in_one_file_keep_their_names_apart(tmp_path: Path) -> None:
    contents = scan(save(tmp_path / "gan.pt", {"generator": weights(1), "discriminator": weights(2)}))
    assert "generator.fc1.weight" in contents.places and "discriminator.fc1.weight" in contents.places


def test_a_second_copy_beside_the_model_is_left_and_said_so(tmp_path: Path) -> None:
    contents = scan(save(tmp_path / "e.pt", {"model": weights(1), "ema": weights(2)}))
    assert set(contents.places) == set(weights())
    assert any("ema (3 entries)" in note for note in contents.notes)


def test_a_pickled_module_is_read_by_its_parameters_without_its_class(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    path = tmp_path / "module.pt"
    torch.save(model, path)
    assert_reads_as_torch_wrote(path, dict(model.state_dict()))


def test_a_models_plain_config_is_kept(tmp_path: Path) -> None:
    contents = scan(save(tmp_path / "c.pt", {"model": weights(), "model_args": {"n_head": 4, "bias": False}}))
    assert contents.config == {"n_head": 4, "bias": False}


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_object_does_not_run_and_does_not_hide_the_weights(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    state = weights()
    path = save(tmp_path / "h.pt", {"model": state, "args": Hostile(marker)})
    assert_reads_as_torch_wrote(path, state)
    assert not marker.exists()
    assert any("args (posix.system)" in note for note in scan(path).notes)
    torch.load(path, weights_only=False)
    assert marker.exists(), "the attack itself works"


def rewritten(path: Path, compression: int = zipfile.ZIP_STORED, **changed: bytes) -> Path:
    """A copy of a torch zip whose members (by last part of their name) are changed or compressed."""
    out = path.with_name(f"rewritten-{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, changed.get(info.filename.split("/")[-1], old.read(info)))
    return out


def test_compressed_members_are_read_through_the_zip(tmp_path: Path) -> None:
    state = weights()
    path = rewritten(save(tmp_path / "c.pt", state), zipfile.ZIP_DEFLATED)
    assert_reads_as_torch_wrote(path, state)
    with reader(path) as tensors:
        assert bits(np.concatenate(list(tensors.blocks("fc1.weight", 20)))) == torch_bits(state["fc1.weight"])


def test_a_file_of_another_byte_order_is_turned_around(tmp_path: Path) -> None:
    state = {"w": torch.randn(4, 3), "b": torch.randn(3).bfloat16(), "c": torch.randn(2, dtype=torch.complex64)}
    path = save(tmp_path / "big.pt", {name: tensor.clone() for name, tensor in state.items()})
    swapped = {
        str(at): array.byteswap().tobytes()
        for at, array in enumerate([state["w"].numpy(), state["b"].view(torch.int16).numpy(), state["c"].numpy()])
    }
    assert_reads_as_torch_wrote(rewritten(path, byteorder=b"big", **swapped), state)


def test_changed_bytes_are_noticed_by_their_checksum(tmp_path: Path) -> None:
    state = {"w": torch.arange(1000, dtype=torch.float32)}
    path = save(tmp_path / "d.pt", state)
    raw = bytearray(path.read_bytes())
    at = raw.index(state["w"].numpy().tobytes()) + 40
    raw[at] ^= 1
    path.write_bytes(raw)
    with reader(path) as tensors:
        with pytest.raises(ArchiveError, match=r"d\.pt: w: damaged"):
            tensors.read("w")
        with pytest.raises(ArchiveError, match=r"d\.pt: w: damaged"):
            list(tensors.blocks("w", 100))


def test_a_file_saved_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "n.pt", state := weights())
    finally:
        torch.serialization.set_crc32_options(True)
    assert_reads_as_torch_wrote(path, state)


@pytest.mark.parametrize("outer", ["ckpt", "state", "anything"])
def test_a_container_within_one_entry_of_any_name_is_found_with_the_step_beside_it(tmp_path: Path, outer: str) -> None:
    weights = torch.nn.Linear(3, 2).state_dict()
    inner = {"model": weights, "global_step": 70}
    contents = scan(save(tmp_path / "c.pt", {outer: inner, "rng": torch.get_rng_state(), "epoch": 1}))
    assert set(contents.places) - {"rng"} == {"weight", "bias"}
    assert contents.steps["global_step"] == 70


def test_a_model_of_two_parts_keeps_the_names_of_its_parts(tmp_path: Path) -> None:
    parts = {name: {"model": torch.nn.Linear(3, 2).state_dict()} for name in ("actor", "critic")}
    contents = scan(save(tmp_path / "c.pt", parts))
    assert {name.split(".")[0] for name in contents.places} == {"actor", "critic"}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "t.pt")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ArchiveError, match=r"t\.pt: "):
        scan(path)


def test_a_file_cut_after_listing_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    path = save(tmp_path / "t.pt", {"w": torch.randn(1000)})
    with reader(path) as tensors:
        os.truncate(path, 1500)
        with pytest.raises(ArchiveError, match=r"t\.pt: w: cannot be read: the file ends"):
            tensors.read("w")


def test_a_torchscript_program_is_read_by_its_parameters(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Sequential(torch.nn.Linear(2, 2))
    )
    for name, program in (
        ("scripted", torch.jit.script(model)),
        ("traced", torch.jit.trace(model.eval(), torch.ones(1, 3))),
    ):
        path = tmp_path / f"{name}.jit"
        torch.jit.save(program, str(path))
        assert_reads_as_torch_wrote(path, dict(program.state_dict()))


def test_tensors_of_unread_kinds_are_listed_by_name(tmp_path: Path) -> None:
    state = {"w": torch.randn(2, 2), "sparse": torch.eye(3).to_sparse(), "meta": torch.empty(2, device="meta")}
    contents = scan(save(tmp_path / "s.pt", state))
    assert set(contents.places) == {"w"}
    assert {problem.tensor for problem in contents.problems} == {"sparse", "meta"}


def test_a_view_that_expands_one_number_to_a_terabyte_is_refused(tmp_path: Path) -> None:
    contents = scan(save(tmp_path / "x.pt", {"w": torch.ones(2), "huge": torch.ones(1).expand(1 << 20, 1 << 18)}))
    assert set(contents.places) == {"w"}
    assert "expanded view" in contents.problems[0].reason


def test_a_pickle_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(ArchiveError, match="refused"):
        scan(path)


@settings(deadline=None, max_examples=300)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), second=st.floats(0, 1, exclude_max=True))
def test_a_file_with_changed_bytes_is_read_or_is_an_archive_error(
    tmp_path_factory: pytest.TempPathFactory, at: float, byte: int, second: float
) -> None:
    buffer = io.BytesIO()
    torch.save({"model": weights(), "optimizer": {"lr": 0.1}}, buffer)
    raw = bytearray(buffer.getvalue())
    raw[int(at * len(raw))] = byte
    raw[int(second * len(raw))] = byte
    path = tmp_path_factory.mktemp("fuzz") / "f.pt"
    path.write_bytes(raw)
    try:
        with reader(path) as tensors:
            for header in tensors.headers:
                tensors.read(header.name)
    except ArchiveError:
        pass


def test_listing_and_reading_need_no_torch(tmp_path: Path) -> None:
    save(tmp_path / "m.pt", weights())
    code = (
        "import sys; from pipeline.archive import open_archive, open_tensors\n"
        f"checkpoint = open_archive({str(tmp_path)!r}).runs[0].checkpoints[0]\n"
        "with open_tensors(checkpoint) as tensors: tensors.read('fc2.weight')\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "short.pt", {"w": torch.randn(10)[2:]})
    with pytest.raises(ArchiveError, match=r"w: float32 \[8\] ends at byte 40 of its storage, which has 36"):
        scan(rewritten(path, **{"0": bytes(36)}))
    without = tmp_path / "without.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(without, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("/data/0"):
                new.writestr(info.filename, old.read(info))
    with pytest.raises(ArchiveError, match="its storage data/0 is not in the file"):
        scan(without)
