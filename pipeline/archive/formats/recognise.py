"""What a file is, by its first bytes: a format that is read, one that is not, an unusable file, or no weights.

Names decide only where the bytes leave it open.
"""

from __future__ import annotations

import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from analyzers.errors import ArchiveError
from pipeline.archive import filenames
from pipeline.archive.formats import safetensors_file, sharded, torch_in_zip, torch_legacy, torch_zip, unread
from pipeline.archive.formats.unread import Unread
from pipeline.archive.guarded import open_regular
from pipeline.archive.zip_members import BoundedReads, Region, open_zip

SHARDED = "-sharded"
# So many bytes are looked at.
HEAD = 4096
# HDF5 and msgpack files do not say at their beginning what they hold.
LONG_HEAD = 1 << 20
# A smaller file of unknown content and without the suffix of weights is not mentioned.
MENTIONED_BYTES = 1 << 20
# Of a tar file so many members are looked at: it has no list of them.
TAR_MEMBERS = 50

_KERAS = re.compile(
    rb"layer_names|weight_names|model_weights|keras_version|_layer_checkpoint_dependencies|optimizer_weights"
)
_PARAMETER = re.compile(r"weight|kernel|bias|embed|param|layer|scale|(?:^|[-_./])[wb]\d*$", re.IGNORECASE)
_PAGE = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|!--|\?xml|script|meta)", re.IGNORECASE)
_LFS = re.compile(rb"^version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?size (\d{1,18})\n")
_TABLE_END = bytes.fromhex("57fb808b247547db")
_PICKLE = re.compile(rb"^\x80[\x02-\x05]|^\((?:dp|lp)\d|^c[\w.]+\n\w+\n")
_PICTURES = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"%PDF", b"PAR1", b"ARROW1", b"SQLite", b"\x7fELF"),
    *(b"OggS", b"fLaC", b"ID3", b"II*\0", b"MM\0*"),
)


@dataclass(frozen=True)
class Recognised:
    """What a file is: `format` that is read, or an `unread` one, or `fault`: why it is no usable file of weights.

    None of them: it holds no weights as far as its beginning tells.
    """

    format: str = ""
    unread: Unread | None = None
    fault: str = ""
    is_text: bool = False


_OTHER = Recognised()


def recognise(path: Path) -> Recognised:
    """What a file is. ArchiveError and OSError when it cannot be looked at."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(HEAD)
    if not first:
        return Recognised(fault="empty (0 bytes): perhaps still being written")
    if sharded.is_index(path):
        is_safetensors = path.name.endswith(".safetensors" + sharded.INDEX_SUFFIX)
        index = Recognised((safetensors_file.NAME if is_safetensors else torch_zip.NAME) + SHARDED)
        return _pointer_or_page(first) or index
    if path.suffix.lower() == ".distcp":
        return Recognised(unread=unread.DISTRIBUTED)
    if torch_legacy.is_legacy(first):
        return Recognised(torch_legacy.NAME)
    if first[:2] == b"PK":
        return _zip(path)
    if _is_safetensors(first, size):
        return Recognised(safetensors_file.NAME)
    return _pointer_or_page(first) or _by_mark(path, first, size) or _by_suffix(path, first, size)


def _is_safetensors(first: bytes, size: int) -> bool:
    length = int.from_bytes(first[:8], "little")
    return first[8:9] == b"{" and 2 <= length <= min(size - 8, safetensors_file.MAX_HEADER_BYTES)


def _pointer_or_page(first: bytes) -> Recognised | None:
    """What stands in the place of a file that was not fetched."""
    if pointer := _LFS.match(first):
        return Recognised(fault=f"a Git LFS pointer ({_megabytes(int(pointer[1]))}): run git lfs pull")
    if first.startswith(b"/annex/objects/"):
        return Recognised(fault="a git-annex pointer: run git annex get")
    if _PAGE.match(first):
        return Recognised(fault="a web page, not weights: download the file again")
    if not any(first):
        return Recognised(fault="begins with zeros: incompletely written, or damaged")
    return None


def _by_mark(path: Path, first: bytes, size: int) -> Recognised | None:
    """Formats with a mark of their own."""
    if first.startswith(b"\x89HDF"):
        is_keras = len(first) < 512 or _KERAS.search(_long_head(path))
        return Recognised(unread=unread.KERAS if is_keras else unread.HDF5)
    if first.startswith(b"\x93NUMPY"):
        return Recognised(unread=unread.NUMPY_ARRAY)
    if first.startswith(b"GGUF"):
        return Recognised(unread=unread.GGUF)
    if first[:4] in (b"lmgg", b"tjgg", b"fmgg", b"algg"):
        return Recognised(unread=unread.GGML)
    if first[4:8] == b"TFL3":
        return Recognised(unread=unread.TFLITE)
    if first[4:8] in (b"ET12", b"ET13"):
        return Recognised(unread=unread.EXECUTORCH)
    if first[257:262] == b"ustar":
        return _tar(path)
    if _PICKLE.match(first):
        return _pickle(path, first)
    if _is_msgpack(path, first):
        return Recognised(unread=unread.MSGPACK)
    if first[0] == 8 and first[2:3] == b"\x12" and (b"pytorch" in first[:64] or b"onnx" in first[:64].lower()):
        return Recognised(unread=unread.ONNX)
    if size >= 48 and _last_bytes(path, size) == _TABLE_END:
        return Recognised(unread=unread.TENSORFLOW)
    return _OTHER if first.startswith(_PICTURES) and not filenames.is_weights_name(path) else None


def _by_suffix(path: Path, first: bytes, size: int) -> Recognised:
    """What is left: the suffix's word, or a fault where it promises weights."""
    if path.suffix.lower() == ".safetensors":
        # Its own reader says best what is wrong with it.
        return Recognised(safetensors_file.NAME)
    if filenames.packed_weights(path):
        return Recognised(unread=unread.PACKED)
    if known := unread.BY_SUFFIX.get(path.suffix.lower()):
        return Recognised(unread=known)
    text = _is_text(first)
    if filenames.is_weights_name(path):
        what = "text, not weights: it " if text else ""
        # What a link leads to may be a secret of the reader's.
        begins = "a link to what is" if path.is_symlink() else f"begins with {first[:8]!r}:"
        return Recognised(fault=f"{what}{begins} neither a torch file nor another known format; not read", is_text=text)
    tokenizer = path.name.startswith(("tokenizer", "spiece", "sentencepiece", "vocab"))
    if text or size < MENTIONED_BYTES or tokenizer:
        return _OTHER
    return Recognised(
        unread=Unread("files of unknown content are", "if they hold weights, save them with torch.save", "data")
    )


def _zip(path: Path) -> Recognised:
    """A zip file by the names of its members."""
    try:
        with open_zip(Region(path)) as archive:
            names = archive.namelist()
    except ArchiveError as error:
        if path.suffix.lower() in unread.BY_SUFFIX:
            return Recognised(unread=unread.BY_SUFFIX[path.suffix.lower()])
        return Recognised(fault=str(error).removeprefix(f"{path}: "))
    if any(name.split("/")[1:] == ["data.pkl"] for name in names):
        return Recognised(torch_zip.NAME)
    if any(name.endswith("weights.h5") for name in names):
        return Recognised(unread=unread.KERAS)
    if names and all(name.endswith(".npy") for name in names):
        parameters = [name for name in names if _PARAMETER.search(name.removesuffix(".npy"))]
        return Recognised(unread=unread.NUMPY_ARCHIVE if parameters else unread.NUMPY_DATA)
    if "MAR-INF/MANIFEST.json" in names:
        return Recognised(unread=unread.TORCHSERVE)
    if any(name.rpartition("/")[2] == "archive_format" for name in names):
        return Recognised(unread=unread.TORCH_EXPORT)
    if any("/.data/extern_modules" in f"/{name}" for name in names):
        return Recognised(unread=unread.TORCH_PACKAGE)
    members = [Path(name) for name in names if filenames.is_weights_name(Path(name)) and "__MACOSX" not in name]
    if not members:
        return _OTHER
    is_one = torch_in_zip.is_one_checkpoint(members)
    return Recognised(torch_in_zip.NAME) if is_one else Recognised(unread=unread.PACKED_CHECKPOINTS)


def _tar(path: Path) -> Recognised:
    """A tar file by the names of its first members."""
    names: list[str] = []
    try:
        with (
            open_regular(path) as file,
            tarfile.open(fileobj=cast(IO[bytes], BoundedReads(file)), mode="r:") as archive,
        ):
            while len(names) < TAR_MEMBERS and (member := archive.next()) is not None:
                names.append(member.name.removeprefix("./"))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        return Recognised(fault=f"an incomplete tar file: {error}")
    if {"pickle", "storages"} <= set(names):
        return Recognised(unread=unread.TORCH_TAR)
    if "model_config.yaml" in names or path.suffix == ".nemo":
        return Recognised(unread=unread.NEMO)
    packed = any(filenames.is_weights_name(Path(name)) for name in names)
    return Recognised(unread=unread.PACKED_CHECKPOINTS) if packed else _OTHER


def _pickle(path: Path, first: bytes) -> Recognised:
    if b"joblib" in first or path.suffix.lower() == ".joblib":
        return Recognised(unread=unread.JOBLIB)
    return Recognised(unread=unread.TORCH_PICKLE if b"torch" in first else unread.PICKLE)


def _is_msgpack(path: Path, first: bytes) -> bool:
    """A map whose first key is a word, with an array in the form that Flax gives it (extension type 1)."""
    is_map = 0x81 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)
    key = first[{0xDE: 3, 0xDF: 5}.get(first[0], 1) :][:1]
    if not is_map or not key or not (0xA1 <= key[0] <= 0xBF or key[0] == 0xD9):
        return False
    return re.search(rb"\xc7.\x01|\xc8..\x01|\xc9....\x01", _long_head(path), re.DOTALL) is not None


def _is_text(first: bytes) -> bool:
    try:
        # A character may be cut in two at the end.
        text = first[: -4 if len(first) == HEAD else None].decode()
    except UnicodeDecodeError as error:
        if error.start < len(first) - 8:
            return False
        text = first[: error.start].decode()
    return all(character.isprintable() or character in "\t\n\r\f\ufeff" for character in text)


def _long_head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(LONG_HEAD)


def _last_bytes(path: Path, size: int) -> bytes:
    with open_regular(path) as file:
        file.seek(size - 8)
        return file.read(8)


def _megabytes(nbytes: int) -> str:
    if nbytes < 1_000_000:
        return f"{nbytes:,} bytes"
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1_000_000_000 else f"{nbytes / 1e6:.0f} MB"
