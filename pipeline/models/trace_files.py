"""Recorded routing in `.npz` files, one per checkpoint, found by a pattern with {run} and {step}."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import blake3
import numpy as np

from analyzers.errors import ParameterError, Unmeasurable
from analyzers.pathway_metrics.probe import Trace


@dataclass(frozen=True)
class TraceFiles:
    """Called with a run and a step, gives that checkpoint's trace. `digest` covers every file of the pattern."""

    folder: Path
    pattern: str
    digest: str

    @staticmethod
    def of(path: Path, folder: Path, pattern: str) -> TraceFiles:
        """Those of a probe file. Raises `ParameterError` where the pattern names no step or no file."""
        if "{step}" not in pattern:
            raise ParameterError(f"{path}: traces {pattern!r} must hold {{step}}, and {{run}} when there are several")
        any_step = pattern.replace("{step}", "*")
        of_run = ("*", "*/**/*")  # its last part, or its id, which has separators that "*" does not match
        files = sorted({file for run in of_run for file in folder.glob(any_step.replace("{run}", run))})
        if not files:
            raise ParameterError(f"{path}: no file matches traces {pattern!r} in {folder}")
        hasher = blake3.blake3()
        for file in files:
            hasher.update(file.relative_to(folder).as_posix().encode())
            hasher.update(file.read_bytes())
        return TraceFiles(folder, pattern, hasher.hexdigest(length=16))

    def __call__(self, run: str, step: int) -> Trace:
        """The fields of one trace. `{run}` is the run's id, or its last part. Raises `Unmeasurable` where there is no
        such file: it names the pattern, not run and step, so that checkpoints without a trace share one reason."""
        for name in dict.fromkeys((run, run.rsplit("/", 1)[-1])):
            file = self.folder / self.pattern.replace("{run}", name).replace("{step}", str(step))
            if file.is_file():
                try:
                    with np.load(file, allow_pickle=False) as opened:
                        return {field: opened[field] for field in opened.files}
                except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                    raise Unmeasurable(f"{file} is not a readable .npz of plain arrays: {error}") from error
        place = ", where {run} is the run's id or its last part" if "{run}" in self.pattern else ""
        raise Unmeasurable(
            f"the probe has no trace of this checkpoint: there is no file {self.folder / self.pattern}{place}"
        )
