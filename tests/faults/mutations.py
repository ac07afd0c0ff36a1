"""Small real archives of every format that is read, and ways to damage them: by bytes, pickle opcodes, JSON values,
members of a zip, and kinds of files."""

from __future__ import annotations

import json
import os
import pickletools
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

MATRICES = {"layers.0.attn.q_proj.weight": (4, 3), "layers.1.mlp.up_proj.weight": (5, 3), "norm.weight": (3,)}
NUMBERS = (0, 1, 2, 3, -1, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63, 2**64 - 1)
PATTERNS = ("(a|a)*b", ".*.*.*", "(.+)+x", r"layers\.(0|1)\..*", "[", "(?<=a)b", "a{4000}{4000}", "\\1", "²", "\0")
PATHS = ("../../../token", "/etc/passwd", "/dev/zero", "/proc/self/environ", "~root", "..", ".", "", "a/" * 3000, "\0")
WORDS = ("²", "\ud800", "a\0b", "x" * 100_000, "=1+1", "9" * 5000, "layers.²", "e" * 40 + "9" * 4400, *PATTERNS, *PATHS)
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1.5, 10**400, 10**5000, -(10**30), 1e308, float("nan"), float("inf")),
    *([], {}, [[]], {"a": {}}, [0] * 10_000, {str(i): i for i in range(3000)}, *NUMBERS, *WORDS),
)
OPCODES = (
    *(b"N", b"]", b"}", b")", b"(", b"t", b"l", b"d", b"R", b"b", b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"\x81"),
    *(b"\x85", b"\x86", b"\x87", b"\x94", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"Q", b"o", b".", b"\x88"),
    *(b"cos\nsystem\n", b"cposix\nsystem\nX\x02\0\0\0id\x85R", b"cbuiltins\neval\n", b"Px\n", b"h\0", b"h\1", b"q\0"),
    *(b"K\xff", b"J\xff\xff\xff\x7f", b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096, b"L" + b"9" * 5000 + b"L\n", b"G" * 9),
    *(b"\x96" + b"\xff" * 8, b"r\xff\xff\xff\x7f", b"I01\n", b"Ixx\n", b"F1e999\n", "X\x03\0\0\0²\0".encode()),
    *(b"N" + b"2\x86" * 60, b"(" * 2000, b"]" * 2000 + b"a" * 1999, b")\x85" * 500, b"\x80\x05", b"\x82\x01"),
)

Mutation = Callable[[Path, random.Random], None]


def make_seeds(folder: Path) -> dict[str, Path]:
    """One archive of each format, by name."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) for name, shape in MATRICES.items()}
    state = {"model": tensors, "optimizer": {"state": {}, "param_groups": []}, "step": 7, "config": {"n_head": 2}}
    for name, legacy in (("torch-zip", False), ("torch-legacy", True)):
        torch.save(state, _in(folder / name, "step7.pt"), _use_new_zipfile_serialization=not legacy)
    compressed = _in(folder / "torch-compressed", "step7.pt")
    with zipfile.ZipFile(folder / "torch-zip" / "step7.pt") as old, zipfile.ZipFile(compressed, "w", 8) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    torch.save(tensors, inner := folder / "policy.pth")
    with zipfile.ZipFile(_in(folder / "torch-in-zip", "agent_7_steps.zip"), "w") as new:
        new.write(inner, "policy.pth")
        new.writestr("data", json.dumps({"num_timesteps": 7}))
    inner.unlink()
    trainer = folder / "trainer" / "checkpoint-7"
    save_file(
        tensors, _in(trainer, "model.safetensors"), metadata={"global_step": "7", "lm_head.weight": "norm.weight"}
    )
    config = {"model_type": "gpt2", "num_attention_heads": 2, "hidden_size": 4, "vocab_size": 9, "head_dim": 2}
    (trainer / "config.json").write_text(json.dumps({**config, "text_config": {"num_key_value_heads": 1}}))
    log = [{"step": 1, "loss": 0.5}, {"step": 7, "eval_loss": 0.25}]
    (trainer / "trainer_state.json").write_text(json.dumps({"global_step": 7, "max_steps": 9, "log_history": log}))
    sharded = folder / "sharded"
    for number, (name, tensor) in enumerate(tensors.items(), 1):
        save_file({name: tensor}, _in(sharded, f"model-{number:05}-of-00003.safetensors"))
    places = {name: f"model-{number:05}-of-00003.safetensors" for number, name in enumerate(tensors, 1)}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    lora = folder / "adapter" / "checkpoint-7"
    module = "base_model.model.layers.0.attn.q_proj.lora_"
    factors = {f"{module}A.weight": torch.randn(2, 3), f"{module}B.weight": torch.randn(4, 2)}
    save_file(factors, _in(lora, "adapter_model.safetensors"))
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {}}
    base = {"base_model_name_or_path": "org/base", "revision": "main", "target_modules": ["q_proj"]}
    (lora / "adapter_config.json").write_text(json.dumps(settings | base))
    return {path.name: path for path in sorted(folder.iterdir())}


def _in(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def mutate(archive: Path, rng: random.Random) -> str:
    """Damages one to three places of an archive; returns how."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in archive.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            break
        path = rng.choice(files)
        able = [_bytes, _kind]
        able += [_json, _json, _json] if path.suffix == ".json" else []
        able += [_header, _header] if path.suffix == ".safetensors" else []
        able += [_zip_pickle, _zip_pickle, _zip_pickle, _members] if _is_zip(path) else []
        able += [_legacy_pickle] * 4 if path.parent.name == "torch-legacy" else []
        how = rng.choice([one for one in able if one is not _kind or rng.random() < 0.2] or [_bytes])
        how(path, rng)
        done.append(f"{how.__name__.strip('_')} of {path.name}")
    return ", ".join(done)


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # damaged already
        return False


def _bytes(path: Path, rng: random.Random) -> None:
    path.write_bytes(_damaged(bytearray(path.read_bytes()), rng))


def _damaged(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        elif kind == 3:
            del data[at : at + rng.choice((1, 4, 100))]
        elif kind == 4:
            data[at:at] = data[at : at + rng.choice((8, 64))] * rng.choice((1, 3))
        else:
            width = rng.choice((2, 4, 8))
            data[at : at + width] = (rng.choice(NUMBERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    return bytes(data)


def _json(path: Path, rng: random.Random) -> None:
    try:
        data = json.loads(path.read_bytes())
        path.write_text(json.dumps(_changed(data, rng)), encoding="utf-8", errors="surrogatepass")
    except (ValueError, RecursionError):
        # Damaged already, or a number too long for Python to write.
        path.write_bytes(
            rng.choice((b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"r": ' + b"9" * 9000 + b"}"))
        )


def _changed(data: Any, rng: random.Random) -> Any:
    """The data with one value, key or element replaced, at any depth."""
    if isinstance(data, dict) and data and rng.random() < 0.9:
        key = rng.choice(list(data))
        if rng.random() < 0.2:
            return {rng.choice(WORDS) if name == key else name: value for name, value in data.items()}
        return {**data, key: _changed(data[key], rng)}
    if isinstance(data, list) and data and rng.random() < 0.8:
        at = rng.randrange(len(data))
        return [*data[:at], _changed(data[at], rng), *data[at + rng.randrange(2) :]]
    return rng.choice(VALUES)


def _header(path: Path, rng: random.Random) -> None:
    """A safetensors file with a changed header of the right length."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        text = json.dumps(_changed(json.loads(data[8 : 8 + length]), rng)).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        _bytes(path, rng)
        return
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def _opcodes(data: bytes, rng: random.Random) -> bytes:
    """A pickle with opcodes removed, repeated, exchanged or added."""
    try:
        starts = [at for _, _, at in pickletools.genops(data)]
    except Exception:  # damaged already: pickletools raises what it likes
        return _damaged(bytearray(data), rng)
    parts = [data[at:end] for at, end in zip(starts, [*starts[1:], None], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(parts))
        kind = rng.randrange(5)
        if kind == 0:
            parts[at] = b""
        elif kind == 1:
            parts.insert(at, rng.choice(OPCODES))
        elif kind == 2:
            parts[at] = rng.choice(OPCODES)
        elif kind == 3:
            parts[at] *= rng.choice((2, 2, 1000))
        else:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
    return b"".join(parts)


def _zip_pickle(path: Path, rng: random.Random) -> None:
    """A torch zip, or one inside of a zip, with a changed pickle."""
    _rewrite(path, rng, lambda name, data: _opcodes(data, rng) if name.endswith("data.pkl") else data)


def _members(path: Path, rng: random.Random) -> None:
    """A zip file with members left out, twice, renamed, or packed a thousandfold."""
    _rewrite(
        path,
        rng,
        lambda name, data: rng.choice((data, data, b"", bytes(3_000_000), data * 3, _damaged(bytearray(data), rng))),
    )


def _rewrite(path: Path, rng: random.Random, change: Callable[[str, bytes], bytes]) -> None:
    changed = path.with_suffix(".new")
    try:
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w", rng.choice((0, 0, 8))) as new:
            for info in old.infolist():
                data = old.read(info)
                if info.filename.endswith(".pth"):
                    (inner := path.with_suffix(".inner")).write_bytes(data)
                    _rewrite(inner, rng, change)
                    data = inner.read_bytes()
                    inner.unlink()
                new.writestr(info.filename, change(info.filename, data))
        changed.replace(path)
    except Exception:  # damaged already: zipfile raises what it likes
        changed.unlink(missing_ok=True)
        _bytes(path, rng)


def _legacy_pickle(path: Path, rng: random.Random) -> None:
    """A legacy file with one of its five pickles changed."""
    data = path.read_bytes()
    ends = [0]
    try:
        for _ in range(5):
            ends.append(ends[-1] + 1 + max(at for _, _, at in pickletools.genops(data[ends[-1] :])))
    except Exception:  # damaged already
        _bytes(path, rng)
        return
    at = rng.choice((1, 2, 3, 3, 3, 3, 4))
    path.write_bytes(data[: ends[at]] + _opcodes(data[ends[at] : ends[at + 1]], rng) + data[ends[at + 1] :])


def _kind(path: Path, rng: random.Random) -> None:
    """Something in the file's place that is no regular file, or lies outside of the archive."""
    kept = path.with_name(f"{path.name}.txt")
    if rng.random() < 0.5:
        shutil.copy(path, kept)
    path.unlink()
    if rng.random() < 0.2:
        os.mkfifo(path)
    elif rng.random() < 0.1:
        path.mkdir()
    else:
        targets = (
            "/dev/zero",
            "/dev/tty",
            "/proc/self/mem",
            "/proc/kmsg",
            "/proc/self/environ",
            path.name,
            kept.name,
            "/",
        )
        path.symlink_to(rng.choice(targets))
