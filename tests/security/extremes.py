"""Files made to take time or memory: `python -m tests.security.extremes [--only WORD]` prints a line per file, a tally.

Each is read in a process of its own, as an archive is: listed, its layout made, its tensors read. Printed are seconds
of the processor and megabytes beyond what the process had before. Outcomes: `a finding`, `read`, or WRONG when an
error escaped, the process died, or it took more than 5 s (60 s for the matrices of a checkpoint) or 500 MB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import struct
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from pipeline.analysis.intake import LAYOUT_SECONDS
from tests.faults.fuzz_parsers import SECONDS, TOLERANCE, examine

MEGABYTES = 500
_HANGS_AFTER = 300.0
Make = Callable[[Path], None]


def torch_zip(state_pickle: bytes) -> Make:
    """A torch file with this pickle."""

    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "step1.pt", "w", zipfile.ZIP_STORED) as file:
            file.writestr("a/data.pkl", state_pickle)
            file.writestr("a/data/0", bytes(64))

    return make


def legacy(state_pickle: bytes) -> Make:
    """The same as a torch file of the old format: pickles one after the other."""
    start = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    return lambda folder: _write(folder / "step1.pt", start + state_pickle)


def config(text: str | bytes, name: str = "config.json") -> Make:
    """Ordinary weights with this beside them."""

    def make(folder: Path) -> None:
        tensors = {"layers.0.self_attn.q_proj.weight": np.ones((8, 8), "f4")}
        if name == "adapter_config.json":
            tensors = {f"base_model.model.fc.lora_{x}.weight": np.ones((4, 4), "f4") for x in "AB"}
        stem = "adapter_model" if name[0] == "a" else "model"
        _write(folder / f"{stem}.safetensors", save(tensors))
        _write(folder / name, text.encode() if isinstance(text, str) else text)

    return make


def adapter(**settings: object) -> Make:
    """An adapter with these settings."""
    whole = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["fc"], **settings}
    return config(json.dumps(whole), "adapter_config.json")


def header(text: bytes, data: int = 0) -> Make:
    """A safetensors file with this header and so many bytes of data."""
    return lambda folder: _write(folder / "model.safetensors", len(text).to_bytes(8, "little") + text + bytes(data))


def small_tensors(count: int, name: str = "layers.{}.w{}") -> bytes:
    """A header of `count` tensors of 4 × 4."""
    entries = {
        name.format(i % 500, i): {"dtype": "U8", "shape": [4, 4], "data_offsets": [16 * i, 16 * i + 16]}
        for i in range(count)
    }
    return json.dumps(entries).encode()


def bomb(folder: Path) -> None:
    """A torch zip whose compressed storage unpacks to 4 GB of zeros."""
    buffer = BytesIO()
    torch.save({"w.weight": torch.zeros(4, 4)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(folder / "step1.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            with new.open(info.filename, "w", force_zip64=True) as member:
                member.write(old.read(info))
                for _ in range(256 if "data/0" in info.filename else 0):
                    member.write(bytes(1 << 20))


def pickle_bomb(folder: Path) -> None:
    """A compressed `data.pkl` of a gigabyte of NONE and POP."""
    with zipfile.ZipFile(folder / "step1.pt", "w", zipfile.ZIP_DEFLATED) as new, new.open("a/data.pkl", "w") as member:
        for _ in range(512):
            member.write(b"N0" * (1 << 20))


def many_members(folder: Path) -> None:
    """A zip of a million members."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 8) + bytes(16)
    listing = b"".join(entry + f"{i:08d}".encode() for i in range(1_000_000))
    locator = 4 + len(listing)
    end64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**6, 10**6, len(listing), 4)
    end = (
        b"PK\x06\x07"
        + struct.pack("<IQI", 0, locator, 1)
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    )
    _write(folder / "step1.pt", b"PK\x03\x04" + listing + end64 + end)


def members_within(folder: Path) -> None:
    """A torch zip of as many members as its list may have."""
    with zipfile.ZipFile(folder / "step1.pt", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        for number in range(95_000):
            file.writestr(f"a/data/{number}", b"")


def tar_bomb(folder: Path) -> None:
    """A tar file of 300 000 empty members, the first with a header of 30 MB."""
    with tarfile.open(folder / "model.tar", "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"comment": "x" * (30 << 20)}
        file.addfile(info)
        for number in range(20_000):
            file.addfile(tarfile.TarInfo(f"{number}"))


def npz_bomb(folder: Path) -> None:
    """An .npz whose array unpacks to a gigabyte."""
    with zipfile.ZipFile(folder / "model.npz", "w", zipfile.ZIP_DEFLATED) as new, new.open("w.npy", "w") as member:
        member.write(
            b"\x93NUMPY\x01\0v\0" + b"{'descr':'<f4','fortran_order':False,'shape':(268435456,)}".ljust(117) + b"\n"
        )
        for _ in range(1024):
            member.write(bytes(1 << 20))


def links(folder: Path) -> None:
    """Folders that link to each other."""
    for number in range(300):
        (folder / f"d{number}").mkdir()
        for to in (number + 1, number + 7, 0):
            (folder / f"d{number}" / f"l{to}").symlink_to(folder / f"d{to % 300}")


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def long_memo() -> bytes:
    return b"".join(b"r" + struct.pack("<I", number) for number in range(3_900_000))


def numbers() -> bytes:
    return b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(1_300_000))


def long_names() -> bytes:
    return small_tensors(30_000, "layers.{}." + "w" * 890 + "{}")


def rows() -> list[dict[str, float]]:
    return [{"step": number, "loss": 1.0, f"k{number % 500}": 2.0} for number in range(100_000)]


def text() -> bytes:
    return b"X" + struct.pack("<I", 30 << 20) + b"\xc3\xa9" * (15 << 20)


SHAPE = b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,%d]}}'
HUGE_MODEL = {"model_type": "llama", "num_hidden_layers": 10**9, "num_attention_heads": 10**9, "num_labels": 10**9}
LONG = b"\x8b\0\4\0\0" + b"\xff" * 1024
NAME = b"X" + struct.pack("<I", 60 << 20)
SHARED = b"N" + b"2\x86" * 60

OF_MATRICES = ("safetensors: 30 000 names of 900 characters",)
"""Files whose tensors are read, so that the limit for the matrices of a checkpoint holds."""

FILES: dict[str, Callable[[], Make]] = {
    "pickle: a tuple of 2^60 leaves": lambda: torch_zip(SHARED + b"."),
    "pickle: 2^60 leaves as a key of a dict": lambda: torch_zip(b"}" + SHARED + b"Ns."),
    "pickle: 2^60 leaves in a legacy file": lambda: legacy(SHARED + b"."),
    "pickle: 2^60 leaves by a memo": lambda: torch_zip(b"Nq\0" + b"h\0h\0\x86q\0" * 60 + b"."),
    "pickle: lists in lists, a million deep": lambda: torch_zip(b"]" * 1_000_000 + b"a" * 999_999 + b"."),
    "pickle: dicts in dicts, 90 000 deep": lambda: torch_zip(b"}" + b"X\1\0\0\0a}" * 90_000 + b"s" * 90_000 + b"."),
    "pickle: tuples in tuples, a million deep": lambda: torch_zip(b"N" + b"\x85" * 1_000_000 + b"."),
    "pickle: 12 million BINPUTs": lambda: torch_zip(b"N" + b"q\0" * 6_000_000 + b"."),
    "pickle: a memo of 3.9 million entries": lambda: torch_zip(b"N" + long_memo() + b"."),
    "pickle: 3.9 million marks": lambda: torch_zip(b"(" * 3_900_000 + b"N."),
    "pickle: 3.9 million empty dicts": lambda: torch_zip(b"(" + b"}" * 3_900_000 + b"l."),
    "pickle: 1.3 million calls": lambda: torch_zip(b"(" + b"cc\nd\n)R" * 1_300_000 + b"l."),
    "pickle: 3.9 million long globals": lambda: torch_zip(b"(" + b"ca\nb\n" * 3_900_000 + b"l."),
    "pickle: 2 million persistent ids": lambda: torch_zip(b"(" + b"NQ" * 1_900_000 + b"l."),
    "pickle: decimals of a million digits": lambda: torch_zip(b"I" + b"9" * 1_000_000 + b"\n."),
    "pickle: 10 000 numbers of 4000 digits": lambda: torch_zip(b"(" + (b"I" + b"9" * 4000 + b"\n") * 10_000 + b"l."),
    "pickle: 50 000 numbers of 1024 bytes": lambda: torch_zip(b"(" + LONG * 50_000 + b"l."),
    "pickle: 60 MB of text that is not ASCII": lambda: torch_zip(b"(" + text() * 2 + b"l."),
    "pickle: a name of 60 MB": lambda: torch_zip(b"}" + NAME + b"a" * (60 << 20) + b"Ns."),
    "pickle: a list extended by itself": lambda: torch_zip(b"]q\0" + b"(h\0h\0e" * 30 + b"."),
    "pickle: a dict of a million keys": lambda: torch_zip(b"}(" + numbers() + b"u."),
    "zip: a bomb of 256 MB in a storage": lambda: bomb,
    "zip: a bomb of a gigabyte of opcodes": lambda: pickle_bomb,
    "zip: a million members": lambda: many_members,
    "zip: 95 000 members": lambda: members_within,
    "tar: 20 000 members and a header of 30 MB": lambda: tar_bomb,
    "npz: a bomb of a gigabyte": lambda: npz_bomb,
    "safetensors: a header of 100 MB": lambda: header(b" " * (100 << 20)),
    "safetensors: a header of 32 MB of blanks": lambda: header(b" " * ((32 << 20) - 2) + b"{}"),
    "safetensors: 190 000 tensors": lambda: header(small_tensors(190_000), 16 * 190_000),
    "safetensors: 250 000 tensors": lambda: header(small_tensors(250_000), 16 * 250_000),
    "safetensors: 30 000 names of 900 characters": lambda: header(long_names(), 16 * 30_000),
    "safetensors: a shape of 20 zeros": lambda: header(SHAPE % (b"0," * 19 + b"9", 0)),
    "safetensors: a shape of a million sides": lambda: header(SHAPE % (b"1," * 900_000 + b"1", 4), 4),
    "json: 100 MB": lambda: config(b'{"a": "' + b"x" * (100 << 20) + b'"}'),
    "json: 31 MB of one string": lambda: config(b'{"a": "' + b"x" * (31 << 20) + b'"}'),
    "json: 31 MB of escapes": lambda: config(b'{"a": "' + b"\\u00e9" * (5 << 20) + b'"}'),
    "json: 1.9 million zeros": lambda: config("[" + "0," * 1_900_000 + "0]"),
    "json: 1.9 million zeros in a config": lambda: config('{"a": [' + "0," * 1_900_000 + "0]}"),
    "json: 600 000 keys": lambda: config("{" + ",".join(f'"k{i}":0' for i in range(600_000)) + "}"),
    "json: 600 000 empty objects": lambda: config('{"a": [' + "{}," * 600_000 + "{}]}"),
    "json: a million levels": lambda: config("[" * 1_000_000),
    "json: 60 levels of 10 000 lists": lambda: config('{"a":' * 60 + "[" + "[0]," * 10_000 + "0]" + "}" * 60),
    "json: 30 000 numbers of 999 digits": lambda: config('{"a": [' + ("9" * 999 + ",") * 30_000 + "0]}"),
    "json: UTF-32": lambda: config(('{"a": "' + "é" * (7 << 20) + '"}').encode("utf-32")),
    "json: a trainer state of 100 000 rows": lambda: config(
        json.dumps({"global_step": 1, "log_history": rows()}), "trainer_state.json"
    ),
    "json: an index of 300 000 names": lambda: config(
        json.dumps({"weight_map": {f"layers.{i}.w": "model.safetensors" for i in range(300_000)}}),
        "model.safetensors.index.json",
    ),
    "config: a billion layers, heads and labels": lambda: config(json.dumps(HUGE_MODEL)),
    "adapter: (a|a)*b": lambda: adapter(rank_pattern={"(a|a)*b": 4}, target_modules="(a|a)*b"),
    "adapter: 1000 nested groups": lambda: adapter(rank_pattern={"(" * 499 + ")*" * 300: 4}, target_modules="(" * 999),
    "adapter: 20 000 patterns": lambda: adapter(rank_pattern={f".*.*.*{i}.*x": 4 for i in range(20_000)}),
    "adapter: (a?){30}a{30}": lambda: adapter(rank_pattern={"(a?){30}a{30}b": 4}, alpha_pattern={".*.*.*.*.*.*x": 2}),
    "adapter: repeats of repeats": lambda: adapter(rank_pattern={"((a{60}){60}){60}": 4}),
    "links: 300 folders that link to each other": lambda: links,
}  # fmt: skip


def _measure(folder: Path, answer: Connection) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = _memory("VmRSS"), time.process_time()
    try:
        outcome = "a finding" if examine(folder) else "read"
    except BaseException as error:  # nothing may escape: it is the outcome of this file
        outcome = f"WRONG: {type(error).__name__}: {error!s:.200}"
    answer.send((outcome, time.process_time() - started, (_memory("VmHWM") - before) / 1024))


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def judge(make: Make, limit: float = SECONDS) -> tuple[str, float, float]:
    """Outcome, seconds of the processor (`limit`: how many are allowed) and megabytes for one file."""
    with tempfile.TemporaryDirectory(prefix="varve-extreme-") as scratch:
        folder = Path(scratch, "archive")
        folder.mkdir()
        make(folder)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_measure, args=(folder, theirs))
        process.start()
        theirs.close()
        try:
            outcome, seconds, megabytes = ours.recv() if ours.poll(_HANGS_AFTER) else ("WRONG: it hangs", 0.0, 0.0)
        except EOFError:
            outcome, seconds, megabytes = "WRONG: the process died", 0.0, 0.0
        process.kill()
        process.join()
    if not outcome.startswith("WRONG") and (seconds > limit + TOLERANCE or megabytes > MEGABYTES):
        outcome = f"WRONG: beyond the limits ({outcome})"
    return outcome, seconds, megabytes


def tries(only: str = "") -> Iterator[tuple[str, str, float, float]]:
    """(what, outcome, seconds, megabytes) of every file whose description holds `only`."""
    with tempfile.TemporaryDirectory() as scratch:  # what is imported once does not count
        config("{}")(Path(scratch))
        torch.save({"w.weight": torch.zeros(4, 4)}, Path(scratch, "step2.pt"))
        examine(Path(scratch))
    for what, make in FILES.items():
        if only in what:
            yield what, *judge(make(), LAYOUT_SECONDS if what in OF_MATRICES else SECONDS)


def main() -> int:
    """Prints every file and the tally; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only files whose description contains this")
    tally: Counter[str] = Counter()
    for what, outcome, seconds, megabytes in tries(parser.parse_args().only):
        tally[outcome.split(":")[0]] += 1
        print(f"{seconds:6.2f} s {megabytes:6.0f} MB  {what:50s} {outcome}", flush=True)
    print(dict(tally), sum(tally.values()), "files")
    return int("WRONG" in tally)


if __name__ == "__main__":
    raise SystemExit(main())
