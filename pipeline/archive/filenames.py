"""What file names suggest: suffixes, words of training state, temporary names. They order guesses; contents decide."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".th", ".pth.tar", ".pt.tar", ".ckpt.tar", ".torch", ".pyt")
"""A file so called should be weights: one that is damaged is a problem."""

_CUT = {
    ".safetensors", ".st", ".pt", ".pth", ".bin", ".ckpt", ".chkpt", ".chk", ".th", ".tar", ".torch", ".pyt", ".jit",
    ".pts", ".ptl", ".pkl", ".pickle", ".p", ".model", ".weights", ".params", ".net", ".mdl", ".zip", ".t7", ".dat",
    ".data", ".checkpoint", ".statedict", ".state_dict", ".npz", ".h5", ".hdf5", ".msgpack", ".joblib", ".index",
}  # fmt: skip
_SILENT = {
    ".json", ".jsonl", ".ndjson", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".xml", ".txt", ".md", ".rst",
    ".tex", ".csv", ".tsv", ".log", ".html", ".htm", ".css", ".js", ".ts", ".py", ".pyc", ".pyi", ".ipynb", ".sh",
    ".bat", ".c", ".h", ".cc", ".cpp", ".cu", ".hpp", ".rs", ".go", ".java", ".r", ".jl", ".lua", ".so", ".o", ".a",
    ".lock", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".bmp", ".tif", ".tiff", ".ico", ".pdf", ".ps", ".eps",
    ".mp3", ".mp4", ".wav", ".flac", ".ogg", ".avi", ".mkv", ".mov", ".webm", ".parquet", ".arrow", ".feather",
    ".avro", ".orc", ".sqlite", ".db", ".mdb", ".tfrecord", ".tfrecords", ".pdb", ".whl", ".jar", ".docx", ".xlsx",
    ".pptx", ".jinja", ".dvc", ".patch", ".diff", ".out", ".err", ".idx", ".bpe", ".vocab",
}  # fmt: skip
_TEMPORARY = re.compile(r"(?:\.(?:tmp|temp|part|partial|incomplete|crdownload|download|writing|swp)|~)$", re.IGNORECASE)
_TEMPORARY_FOLDER = re.compile(r"^tmp[-_.]|[-_.]tmp$|\.orbax-checkpoint-tmp(?:[-_.]\d+)?$", re.IGNORECASE)
_TRAINING_STATE = re.compile(
    r"(?:^|[-_.])(?:optim|optimizer|optimizers|optim_states|scheduler|lr_scheduler|rng|rng_states?|rng_state_\d+|"
    r"random_states?|training_args|train_args|scaler|grad_scaler|trainer_state|dataloader|sampler|"
    r"replay_buffer|vec_?normalize)(?:$|[-_.\d])",
    re.IGNORECASE,
)
_TRAINERS_OWN = re.compile(
    r"^(?:optimizer|scheduler|scaler|rng_state(?:_\d+)?|random_states(?:_\d+)?|training_args|sampler(?:_\d+)?|"
    r"dl_state_dict(?:_\d+)?)\.(?:pt|pth|bin|pkl)$"
)
_PACKING = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".lz4", ".7z", ".rar"}


def suffix(path: Path) -> str:
    """The suffix in lower case, of two parts where the last is only how it is packed: '.pth.tar'."""
    last = path.suffix.lower()
    if last == ".tar" and len(path.suffixes) > 1:
        both = path.suffixes[-2].lower() + last
        return both if both in SUFFIXES else last
    return last


def stem(path: Path) -> str:
    """The name without the suffixes of weights files; what follows another dot belongs to the name ('0.1_state'), but
    for a word behind a mere number ('7.weights')."""
    name = path
    while name.suffix.lower() in _CUT:
        name = name.with_suffix("")
    return name.stem if name.stem.isdecimal() and name.suffix[1:].isalpha() else name.name


def is_weights_name(path: Path) -> bool:
    """Whether the suffix promises weights."""
    return suffix(path) in SUFFIXES


def is_other(path: Path) -> bool:
    """Whether the name tells that the file is code, text, a picture or a table: such a file is not opened."""
    return path.suffix.lower() in _SILENT or ".tfevents." in path.name


def is_temporary(path: Path) -> bool:
    """Whether the name is one that a program gives to a file while it writes it."""
    return _TEMPORARY.search(path.name) is not None


def without_temporary(folder_name: str) -> str | None:
    """'checkpoint-5' for 'tmp-checkpoint-5': the name that a folder gets once it is complete; None for other names."""
    name = _TEMPORARY_FOLDER.sub("", folder_name)
    return name if name != folder_name else None


def is_training_state(path: Path) -> bool:
    """Whether a word of the name suggests an optimizer, a scheduler, random states or arguments."""
    return _TRAINING_STATE.search(stem(path)) is not None


def is_trainers_own(name: str) -> bool:
    """Whether the name is exactly one that the Hugging Face Trainer or Accelerate gives to its state."""
    return _TRAINERS_OWN.match(name) is not None


def packed_weights(path: Path) -> bool:
    """Whether the name is that of a compressed weights file or of a packed folder: 'model.pt.gz', 'model.tar.gz'."""
    inner = Path(path.stem)
    return path.suffix.lower() in _PACKING and (
        is_weights_name(inner) or inner.suffix == ".tar" or path.suffix == ".tgz"
    )
