"""Whether two checkpoints hold the same weights, from headers and a few kilobytes in the middle of every tensor.

A Trainer's output folder repeats its last (or best) checkpoint; an optimizer's step changes every trained tensor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analyzers.errors import ArchiveError
from pipeline.archive.formats import scan
from pipeline.archive.formats.contents import BytePlace, FileContents
from pipeline.archive.reader import TensorReader, read_place
from pipeline.archive.types import Checkpoint

SAMPLE_ELEMENTS = 1024

EXACT_BYTES = 1 << 30
"""`same_checkpoint` compares this many bytes in full, and the rest by samples."""


def same_checkpoint(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints hold the same weights: equal headers, and equal values of every tensor.

    Most checkpoints that differ do so in the samples. If the samples are equal, the first GiB of tensors is compared.
    """
    try:
        mine, its = (scan(checkpoint.path, checkpoint.format) for checkpoint in (one, other))
    except (ArchiveError, OSError):
        return False
    if not same_weights(mine, its):
        return False
    left = EXACT_BYTES
    with TensorReader(one.path, mine) as reader, TensorReader(other.path, its) as other_reader:
        for name, place in mine.places.items():
            left -= place.header.nbytes
            if left >= 0 and reader.read(name).tobytes() != other_reader.read(name).tobytes():
                return False
    return True


def same_weights(one: FileContents, other: FileContents) -> bool:
    """Equal names, dtypes, shapes, and equal values in the middle of every tensor.

    A file whose values cannot be read is not treated as a copy; reading it in full reports the damage.
    """
    headers = [{name: place.header for name, place in contents.places.items()} for contents in (one, other)]
    if headers[0] != headers[1]:
        return False
    try:
        return all(
            np.array_equal(_sample(place).view(np.uint8), _sample(other.places[name]).view(np.uint8))
            for name, place in one.places.items()
        )
    except ArchiveError:
        return False


def _sample(place: BytePlace) -> np.ndarray:
    """Up to `SAMPLE_ELEMENTS` values from the middle, flattened."""
    for axis, size in enumerate(place.header.shape):
        place = _narrow(place, axis, size // 2, max(1, min(size - size // 2, _wanted(place, axis))))
    return read_place(place).reshape(-1)


def _wanted(place: BytePlace, axis: int) -> int:
    """How many indices of an axis to keep, when all later axes are kept whole."""
    later = int(np.prod(place.header.shape[axis + 1 :], dtype=np.int64))
    return SAMPLE_ELEMENTS // max(1, later)


def _narrow(place: BytePlace, axis: int, start: int, count: int) -> BytePlace:
    shape = place.header.shape
    count = min(count, shape[axis] - start)
    header = replace(place.header, shape=(*shape[:axis], count, *shape[axis + 1 :]))
    itemsize = place.header.nbytes // max(1, int(np.prod(shape, dtype=np.int64)))
    nbytes = int(np.prod(header.shape, dtype=np.int64)) * itemsize
    offset = place.offset + start * place.strides[axis] * itemsize
    return replace(place, header=replace(header, nbytes=nbytes), offset=offset, crc32=None)
