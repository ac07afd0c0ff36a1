"""Probe sets: a YAML file that says which samples are run through every checkpoint.

    name: my probe
    text: samples.txt            # one sample per line; or
    jsonl: samples.jsonl         # one object per line, the text in `field` (default: text); or
    tokens: tokens.npy           # int (N, T), padded with `padding` (default 0) after `lengths: lengths.npy`; or
    arrays: inputs.npy           # (N, ...) as a model of your own takes them; or
    traces: "traces/{run}-{step}.npz"   # recorded routing instead of a model, with `samples: N`
    tokenizer: FOLDER            # for text: a folder with a tokenizer, or "bytes"
    max_length: 128              # longer texts are cut
    labels: labels.npy           # the answer at a sample's last place
    columns: {class: classes.txt, domain: domain}    # .npy, one label per line, or a field of the JSONL
    batch_size: 16

Paths are relative to the file. The digest covers the samples as the model sees them, not how they were written down.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from analyzers.errors import ParameterError
from analyzers.pathway_metrics.probe import COLUMNS, Probe, ProbeColumn
from pipeline.archive.text import real_path
from pipeline.models.factories import import_factory
from pipeline.models.trace_files import TraceFiles
from pipeline.models.yaml_file import read_yaml

_KINDS = ("text", "jsonl", "tokens", "arrays", "traces")
_OTHERS = (
    "name", "field", "tokenizer", "max_length", "labels", "columns", "batch_size", "padding", "lengths", "samples"
)  # fmt: skip
_MOST = 2**31


@dataclass(frozen=True)
class TableRows:
    """The objects of a JSONL file, with the number of the line that each stands in."""

    file: Path
    objects: tuple[dict[str, Any], ...]
    lines: tuple[int, ...]

    def values(self, field: str) -> np.ndarray | None:
        """One field of every object, "" where an object has it not (no label); None where none has it."""
        if field not in self.fields():
            return None
        return np.array(["" if row.get(field) is None else row[field] for row in self.objects])

    def fields(self) -> list[str]:
        """The names of all fields, in order of appearance."""
        return list(dict.fromkeys(name for row in self.objects for name in row))

    def without(self, field: str) -> int | None:
        """The number of the first line whose object lacks a field."""
        return next((n for row, n in zip(self.objects, self.lines, strict=True) if row.get(field) is None), None)


def read_probe(source: str) -> tuple[str, str, Probe]:
    """(name, digest, probe) of a YAML file, or of "package.module:factory" that returns a `Probe`.

    Raises `ParameterError` that names the file and the entry.
    """
    path = real_path(Path(source).expanduser())
    if not path.exists() and path.suffix not in (".yml", ".yaml") and ":" in source:
        probe = import_factory(source, "--probe")()
        if not isinstance(probe, Probe):
            raise ParameterError(f"--probe {source} returned a {type(probe).__name__}, not an analyzers Probe")
    else:
        probe = _of_file(path)
    return probe.name, digest_of(probe), probe


def digest_of(probe: Probe) -> str:
    """blake3 over the samples, their labels and columns, and traces' files; not over the name or the batches."""
    hasher = blake3.blake3()
    for name, array in (("inputs", probe.inputs), ("lengths", probe.lengths), ("labels", probe.labels)):
        if array is not None:
            hasher.update(f"{name} {array.dtype} {array.shape}".encode())
            hasher.update(np.ascontiguousarray(array).tobytes())
    for name, column in sorted(probe.columns.items()):
        hasher.update(json.dumps([name, *column.names]).encode())
        hasher.update(column.codes.tobytes())
    if probe.traces is not None:
        hasher.update(str(getattr(probe.traces, "digest", "")).encode())
    return hasher.hexdigest(length=16)


def _of_file(path: Path) -> Probe:
    described = _described(path)
    kinds = [kind for kind in _KINDS if kind in described]
    if len(kinds) != 1:
        raise ParameterError(f"{path}: give exactly one of {', '.join(_KINDS)}; given: {', '.join(kinds) or 'none'}")
    kind, folder = kinds[0], path.parent
    name = str(described.get("name", path.stem))
    batch_size = _whole(path, described, "batch_size", 16)
    rows: TableRows | None
    vocabulary: int | None = None
    traces: TraceFiles | None = None
    tokens, rows = True, None
    inputs: np.ndarray
    if kind in ("text", "jsonl"):
        texts, rows = _texts(path, folder / str(described[kind]), kind, str(described.get("field", "text")))
        ids, vocabulary = _tokenized(path, texts, described)
        lengths = np.array([len(text) for text in ids], dtype=np.int64)
        inputs = np.zeros((len(ids), int(lengths.max())), dtype=np.int64)
        for row, text in enumerate(ids):
            inputs[row, : len(text)] = text
    elif kind == "tokens":
        inputs, lengths = _tokens(path, folder, described)
    elif kind == "arrays":
        inputs, tokens = _array(path, folder / str(described["arrays"])), False
        lengths = np.ones(len(inputs), dtype=np.int64)
    else:
        count = _whole(path, described, "samples", 0)
        traces = TraceFiles.of(path, folder, str(described["traces"]))
        inputs, lengths, tokens = np.zeros((count, 0)), np.ones(count, dtype=np.int64), False
    _check_lengths(path, inputs, lengths, kind)
    labels = None
    if "labels" in described:
        labels = _values(path, folder, described["labels"], rows, len(lengths), "labels")
        if labels.dtype.kind not in "iu" or labels.min() < 0:
            raise ParameterError(f"{path}: labels must be whole numbers ≥ 0, found {labels.dtype}")
        labels = labels.astype(np.int64)
    return Probe(
        name,
        inputs,
        lengths,
        tokens,
        labels,
        _columns(path, folder, described.get("columns"), rows, len(lengths)),
        batch_size,
        vocabulary,
        traces=traces,
    )


def _tokens(path: Path, folder: Path, described: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (samples, length) of an array's file, and how many of each row are real."""
    inputs = _array(path, folder / str(described["tokens"]))
    if inputs.ndim != 2 or inputs.dtype.kind not in "iu" or inputs.size == 0 or inputs.min() < 0:
        raise ParameterError(
            f"{path}: tokens must be whole numbers ≥ 0 of shape (samples, length), found {inputs.dtype} "
            f"{inputs.shape}" + (f", smallest {inputs.min()}" if inputs.size and inputs.dtype.kind in "if" else "")
        )
    inputs = inputs.astype(np.int64)
    lengths = np.full(len(inputs), inputs.shape[1], dtype=np.int64)
    if "lengths" in described:
        lengths = _array(path, folder / str(described["lengths"])).astype(np.int64).ravel()
    elif "padding" in described:
        real = inputs != int(described["padding"])
        lengths = np.where(real.any(1), inputs.shape[1] - real[:, ::-1].argmax(1), 0)
    if "max_length" in described:
        most = _whole(path, described, "max_length", inputs.shape[1])
        inputs, lengths = inputs[:, :most], np.minimum(lengths, most)
    return inputs, lengths


def _described(path: Path) -> dict[str, Any]:
    described = read_yaml(path, "--probe")
    if not isinstance(described, dict):
        raise ParameterError(f"--probe {path}: a probe must be a mapping, found {type(described).__name__}")
    for key in described:
        if key not in (*_KINDS, *_OTHERS):
            near = difflib.get_close_matches(str(key), (*_KINDS, *_OTHERS), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join((*_KINDS, *_OTHERS))}"
            raise ParameterError(f"--probe {path}: unknown entry {key!r}; {hint}")
    return described


def _whole(path: Path, described: Mapping[str, Any], name: str, default: int) -> int:
    value = described.get(name, default)
    if type(value) is not int or not 1 <= value < _MOST:
        raise ParameterError(f"{path}: {name} must be a whole number of at least 1, found {value!r}")
    return value


def _array(path: Path, file: Path) -> np.ndarray:
    try:
        loaded = np.load(file, allow_pickle=False)
    except OSError as error:
        raise ParameterError(f"{path}: {file}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise ParameterError(f"{path}: {file} is not a plain .npy file: {error}") from error
    if not isinstance(loaded, np.ndarray) or loaded.ndim == 0:
        raise ParameterError(f"{path}: {file} must hold an array with one row per sample")
    return loaded


def _texts(path: Path, file: Path, kind: str, field: str) -> tuple[list[str], TableRows | None]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ParameterError(f"{path}: {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path}: {file} is not UTF-8: {error}") from error
    if kind == "text":
        return _some([line for line in lines if line.strip()], path, file), None
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ParameterError(f"{path}: {file}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field]:
            has = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise ParameterError(f"{path}: {file}, line {number}: no text in the field {field!r}; it has: {has}")
        rows.append(row)
        numbers.append(number)
    return _some([str(row[field]) for row in rows], path, file), TableRows(file, tuple(rows), tuple(numbers))


def _some(texts: list[str], path: Path, file: Path) -> list[str]:
    if not texts:
        raise ParameterError(f"{path}: {file} holds no samples")
    return texts


def _tokenized(path: Path, texts: list[str], described: Mapping[str, Any]) -> tuple[list[list[int]], int]:
    """Token ids of each text, cut to `max_length`, and how many ids the tokenizer has."""
    given = described.get("tokenizer")
    most = _whole(path, described, "max_length", _MOST - 1)
    if given is None:
        raise ParameterError(f"{path}: text needs a tokenizer: name a folder with tokenizer files, or 'bytes'")
    if given == "bytes":
        return [list(text.encode())[:most] for text in texts], 256
    folder = path.parent / str(given)
    if not folder.is_dir():
        raise ParameterError(f"{path}: tokenizer {folder} is not a folder (varve downloads nothing)")
    try:
        import transformers
    except ImportError as error:
        raise ParameterError(
            f"{path}: a tokenizer needs transformers: pip install -e '.[hf]' in varve's folder"
        ) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # tokenizers raise bare exceptions of their own for damaged files
        raise ParameterError(f"{path}: {folder} holds no tokenizer that transformers can read: {error}") from error
    ids = [list(tokenizer(text, truncation=False)["input_ids"])[:most] for text in texts]
    empty = next((number for number, one in enumerate(ids) if not one), None)
    if empty is not None:
        raise ParameterError(f"{path}: sample {empty} ({texts[empty][:40]!r}) has no tokens")
    return ids, len(tokenizer)


def _check_lengths(path: Path, inputs: np.ndarray, lengths: np.ndarray, kind: str) -> None:
    if lengths.shape != (len(inputs),) or len(lengths) == 0:
        raise ParameterError(f"{path}: {len(inputs)} samples but {lengths.size} lengths")
    longest = inputs.shape[1] if kind in ("text", "jsonl", "tokens") else 1
    if lengths.min() < 1 or lengths.max() > longest:
        raise ParameterError(
            f"{path}: lengths run from {lengths.min()} to {lengths.max()}, but must lie between 1 and {longest}"
        )


def _values(path: Path, folder: Path, given: Any, rows: TableRows | None, count: int, what: str) -> np.ndarray:
    """One value per sample: a field of the JSONL, an .npy file, or a file with one label per line."""
    if not isinstance(given, str):
        raise ParameterError(f"{path}: {what} names a file or a field, found {given!r}")
    of_field = None if rows is None else rows.values(given)
    if rows is not None and of_field is not None:
        if what == "labels" and (line := rows.without(given)) is not None:
            raise ParameterError(
                f"{path}: labels: {rows.file}, line {line}: no field {given!r}, which every line needs"
            )
        return of_field
    file = folder / given
    if rows is not None and not file.exists():
        raise ParameterError(
            f"{path}: {what}: {rows.file}, line {rows.lines[0]}: no field {given!r}, nor is there a file {file}; "
            f"the fields are: {', '.join(rows.fields())}"
        )
    if file.suffix == ".npy":
        values = _array(path, file)
    else:
        try:
            values = np.array(file.read_text(encoding="utf-8").splitlines())
        except OSError as error:
            raise ParameterError(f"{path}: {what}: {file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ParameterError(f"{path}: {what}: {file} is not UTF-8: {error}") from error
        if what == "labels":
            try:
                values = values.astype(np.int64)
            except ValueError as error:
                raise ParameterError(f"{path}: {file}: labels must be whole numbers: {error}") from error
    if values.shape != (count,):
        raise ParameterError(f"{path}: {what}: {file} has {values.shape} values for {count} samples")
    return values


def _columns(path: Path, folder: Path, given: Any, rows: TableRows | None, count: int) -> dict[str, ProbeColumn]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ParameterError(
            f"{path}: columns is a mapping of {', '.join(COLUMNS)} to a file or field, found {given!r}"
        )
    unknown = [name for name in given if name not in COLUMNS]
    if unknown:
        raise ParameterError(f"{path}: unknown column {unknown[0]!r}; known: {', '.join(COLUMNS)}")
    return {
        str(name): ProbeColumn.of(_values(path, folder, value, rows, count, f"column {name}"))
        for name, value in given.items()
    }
