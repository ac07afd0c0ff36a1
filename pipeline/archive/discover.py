"""A folder tree → runs → checkpoints with their steps, from names and headers alone.

archive = open_archive("runs/")
for run in archive.runs: print(run.id, [checkpoint.step for checkpoint in run.checkpoints])
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from analyzers.errors import ArchiveError
from pipeline.archive.formats import NOT_READ, READ, Contents, detect, scan
from pipeline.archive.jsonfile import read_json
from pipeline.archive.metrics import STATE_FILE, TrainerState, merge_rows, read_trainer_state
from pipeline.archive.placing import Placed, place
from pipeline.archive.same import same_weights
from pipeline.archive.steps import EPOCH_KEYS, compile_pattern, is_alias, step_from_metadata
from pipeline.archive.types import Archive, Checkpoint, FileStamp, Problem, Run
from pipeline.archive.walk import ADAPTER_CONFIG, Found, Listing, walk

StepSource = Literal["metadata", "name", "catalog", "none"]
Progress = Callable[[str], None]


def open_archive(
    root: str | os.PathLike[str],
    name: str | None = None,
    step_pattern: str | None = None,
    step_scale: float = 1,
    on_progress: Progress | None = None,
) -> Archive:
    """The runs and checkpoints below a folder (or in one weights file), sorted by run id and step.

    Reads headers only. `name` starts every run's id (default: the folder's name). `step_pattern`, a regular
    expression with one group, finds the step in names before anything else is asked; `step_scale` multiplies steps
    that come from names. `on_progress` gets the relative path of each checkpoint whose header has been read.
    What cannot be read is in `problems` of the archive or of the checkpoint. ArchiveError: no such folder, or a
    pattern that is none.
    """
    if "://" in str(root):
        raise ArchiveError(f"{root}: only folders of this machine are read yet: copy or mount it")
    path = Path(os.path.abspath(os.path.expanduser(root)))  # noqa: PTH100, PTH111 - keeps a symlinked root's own name
    pattern = compile_pattern(step_pattern) if step_pattern else None
    if step_scale <= 0:
        raise ArchiveError(f"step scale {step_scale} is not positive")
    if path.is_file():
        listing, folder = Listing(found=[Found(path.parent, (), (path,))]), path.parent
        archive_name = name or path.stem
    elif path.is_dir():
        listing, folder = walk(path), path
        archive_name = name or path.name or "archive"
    else:
        raise ArchiveError(f"{path}: no such file or folder")
    reading = _Reading(folder, unicodedata.normalize("NFC", archive_name), step_scale, listing, on_progress)
    placed = place(listing.found, path.stem if path.is_file() else path.name, pattern)
    return reading.archive(placed)


def require_runs(archive: Archive) -> Archive:
    """The archive itself, or ArchiveError saying what was looked for, when no run in it can be read."""
    if archive.runs:
        return archive
    lines = [f"{archive.root}: no checkpoint that can be read."]
    lines.append(f"Looked for {READ}; in this folder and all below it, hidden ones and *.zarr left out.")
    lines += [f"  {problem}" for problem in archive.problems[:20]]
    if len(archive.problems) > 20:
        lines.append(f"  and {len(archive.problems) - 20} more")
    if not archive.problems:
        lines.append(
            f"No file with one of their suffixes, nor of a known format that is not read ({', '.join(NOT_READ)})."
        )
    raise ArchiveError("\n".join(lines))


def require_distinct_runs(archives: Iterable[Archive]) -> None:
    """ArchiveError when two archives that are to share a store have a run of one name."""
    seen: dict[str, Path] = {}
    for archive in archives:
        for run in archive.runs:
            if run.id in seen:
                raise ArchiveError(
                    f"two runs are called {run.id!r}: {seen[run.id]} and {run.path}; give one archive another name"
                )
            seen[run.id] = run.path


@dataclass(frozen=True)
class _Read:
    """A checkpoint whose header has been read, before its step is settled."""

    placed: Placed
    path: Path
    format: str
    contents: Contents
    state: TrainerState | None
    files: tuple[Path, ...]
    config: dict[str, Any]
    adapter: dict[str, Any] | None
    problems: tuple[Problem, ...]


@dataclass
class _Reading:
    """Reads headers and settles steps for one archive; collects what went wrong."""

    root: Path
    name: str
    scale: float
    listing: Listing
    on_progress: Progress | None

    def archive(self, placed: list[Placed]) -> Archive:
        """Reads everything that was placed."""
        self.problems = list(self.listing.problems)
        self.notes = list(self.listing.notes)
        by_run: dict[tuple[str, ...], list[_Read]] = {}
        for one in placed:
            read = self._read(one)
            if read is not None:
                by_run.setdefault(self._run_parts(read), []).append(read)
        runs: dict[str, Run] = {}
        for parts, reads in sorted(by_run.items()):
            run = self._run(parts, reads)
            if run.id in runs:
                problem = f"two runs are called {run.id!r}: {runs[run.id].path} is read, this one is not"
                self._problem(run.path, problem, "rename one of the folders")
            elif run.checkpoints:
                runs[run.id] = run
        ordered = tuple(runs[run_id] for run_id in sorted(runs))
        return Archive(self.name, self.root, ordered, tuple(self.problems), tuple(self.notes))

    def _problem(self, path: Path, reason: str, hint: str = "") -> None:
        self.problems.append(Problem(self._relative(path), reason.removeprefix(f"{path}: "), hint=hint))

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _read(self, placed: Placed) -> _Read | None:
        """The first of a checkpoint's files that can be read; each one that cannot is a problem."""
        found = placed.found
        adapter: dict[str, Any] | None = None
        if found.kind == "adapter":
            try:
                adapter = read_json(found.folder / ADAPTER_CONFIG)
            except ArchiveError as error:
                self._problem(found.folder / ADAPTER_CONFIG, str(error), "without it the adapter's scale is unknown")
                return None
        for at, path in enumerate(found.paths):
            try:
                format_name = detect(path)
                contents = scan(path, format_name)
            except (ArchiveError, OSError) as error:
                reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                self._problem(path, reason)
                continue
            if not contents.places:
                self._without_weights(path, contents, found.standard)
                continue
            if self.on_progress is not None:
                self.on_progress(self._relative(path))
            self.notes += [
                f"{self._relative(other)}: left: {path.name} beside it is the same checkpoint"
                for other in found.paths[at + 1 :]
            ]
            return self._with_side_files(placed, path, format_name, contents, adapter)
        return None

    def _without_weights(self, path: Path, contents: Contents, standard: bool) -> None:
        what = "; ".join(contents.notes) or "nothing that is a tensor"
        if contents.problems:
            self.problems += [replace(problem, path=self._relative(path)) for problem in contents.problems]
        elif standard:
            self._problem(path, f"holds no weights: {what}")
        else:
            self.notes.append(f"{self._relative(path)}: holds no weights: {what}")

    def _with_side_files(
        self, placed: Placed, path: Path, format_name: str, contents: Contents, adapter: dict[str, Any] | None
    ) -> _Read:
        """Adds the configs and the trainer's state that stand beside the weights, or above up to the run's folder."""
        found = placed.found
        files = list(contents.files)
        problems = [replace(problem, path=self._relative(Path(problem.path))) for problem in contents.problems]
        if adapter is not None:
            files.append(found.folder / ADAPTER_CONFIG)
        config: dict[str, Any] = {}
        state: TrainerState | None = None
        for folder in self._folders_up_to_run(placed):
            for side_file in ("config.json", STATE_FILE):
                try:
                    if side_file == "config.json" and not config and (folder / side_file).is_file():
                        config = read_json(folder / side_file)
                    elif side_file == STATE_FILE and state is None and self._own_state(placed, folder):
                        state = read_trainer_state(folder)
                        if state is None:
                            continue
                    else:
                        continue
                    files.append(folder / side_file)
                except ArchiveError as error:
                    reason = str(error).removeprefix(f"{folder / side_file}: ")
                    problems.append(Problem(self._relative(folder / side_file), reason))
        return _Read(
            placed,
            path,
            format_name,
            contents,
            state,
            tuple(files),
            config or dict(contents.config),
            adapter,
            tuple(problems),
        )

    def _folders_up_to_run(self, placed: Placed) -> list[Path]:
        folders = [placed.found.folder]
        while folders[-1] != self.root and len(folders[-1].relative_to(self.root).parts) > len(placed.run):
            folders.append(folders[-1].parent)
        return folders

    def _own_state(self, placed: Placed, folder: Path) -> bool:
        """Whether a trainer's state in `folder` speaks of this checkpoint: the run's own is that of its last one."""
        if not placed.found.own_folder:
            return False
        return folder == placed.found.folder or len(folder.relative_to(self.root).parts) > len(placed.run)

    def _run_parts(self, read: _Read) -> tuple[str, ...]:
        """A file of no named step among others is its own run, unless its metadata tells a step."""
        placed = read.placed
        if (
            placed.named
            or placed.beside_steps
            or placed.found.own_folder
            or self.root == placed.found.folder == read.path
        ):
            return placed.run
        if step_from_metadata(read.contents.steps) is not None or placed.found.paths[0] == self.root:
            return placed.run
        return (*placed.run, placed.found.paths[0].stem)

    def _run(self, parts: tuple[str, ...], reads: list[_Read]) -> Run:
        run_id = unicodedata.normalize("NFC", "/".join((self.name, *parts)))
        path = self.root.joinpath(*parts)
        beside = [read for read in reads if read.placed.beside_steps]
        settled = [
            (read, self._checkpoint(run_id, read, *self._step(read))) for read in reads if not read.placed.beside_steps
        ]
        checkpoints: dict[int, tuple[_Read, Checkpoint]] = {}
        # A file that names its step goes before one that is only 'best' or 'last' and says the same in its metadata.
        for read, checkpoint in sorted(
            settled, key=lambda pair: (is_alias(pair[0].path.stem), self._relative(pair[0].path))
        ):
            self._add(checkpoints, read, checkpoint)
        for read in sorted(beside, key=lambda read: self._relative(read.path)):
            self._add_final(run_id, checkpoints, read)
        states = [read.state for read in reads if read.state is not None]
        return Run(
            run_id,
            path if path.is_dir() else path.parent,
            tuple(checkpoints[step][1] for step in sorted(checkpoints)),
            "base" if any(part.lower() == "base" for part in parts) else "run",
            merge_rows(states),
        )

    def _add(self, checkpoints: dict[int, tuple[_Read, Checkpoint]], read: _Read, checkpoint: Checkpoint) -> None:
        if checkpoint.step not in checkpoints:
            checkpoints[checkpoint.step] = (read, checkpoint)
            return
        other = checkpoints[checkpoint.step][0]
        where = self._relative(other.path)
        if is_alias(read.path.stem) and same_weights(read.contents, other.contents):
            self.notes.append(f"{self._relative(read.path)}: left: the same weights as {where}, step {checkpoint.step}")
            return
        self._problem(
            read.path,
            f"says step {checkpoint.step} of {checkpoint.run}, as {where} does, which is read; this one is not",
            "put each run into a folder of its own, or give a step pattern",
        )

    def _step(self, read: _Read) -> tuple[int, StepSource]:
        named = read.placed.named
        if named and named.rank == "pattern":
            return round(named.step * self.scale), "catalog"
        stored = read.state.step if read.state else step_from_metadata(read.contents.steps)
        if stored is not None:
            return stored, "metadata"
        if named:
            return round(named.step * self.scale), "name" if self.scale == 1 else "catalog"
        epoch = step_from_metadata(read.contents.steps, EPOCH_KEYS)
        return (epoch, "metadata") if epoch is not None else (0, "none")

    def _add_final(self, run_id: str, checkpoints: dict[int, tuple[_Read, Checkpoint]], read: _Read) -> None:
        """Weights in the folder of a run that has step checkpoints: its final step, or another's copy."""
        where = self._relative(read.path)
        last = checkpoints[max(checkpoints)][0] if checkpoints else None
        best = next((read.state.best for read in (read, last) if read and read.state and read.state.best), None)
        step = read.state.step if read.state else step_from_metadata(read.contents.steps)
        if step is None and last is not None and last.state is not None:
            step = last.state.last_step or last.state.step
        for other, checkpoint in sorted(checkpoints.values(), key=lambda pair: -pair[1].step):
            candidate = (
                other is last or other.placed.found.folder.name == best or checkpoint.step == step or step is None
            )
            if candidate and same_weights(read.contents, other.contents):
                self.notes.append(
                    f"{where}: left: the same weights as {self._relative(other.path)}, step {checkpoint.step}"
                )
                return
        if step is None:
            self._problem(
                read.path,
                "lies beside step checkpoints and neither its name nor its metadata tells its step: not read",
                "rename it so that it does, or move it to a folder of its own",
            )
            return
        final = self._checkpoint(run_id, read, step, "metadata")
        note = f"the weights beside the step checkpoints are taken as the run's final step, {step}"
        self._add(checkpoints, read, replace(final, notes=(*final.notes, note)))

    def _checkpoint(self, run_id: str, read: _Read, step: int, source: StepSource) -> Checkpoint:
        return Checkpoint(
            run=run_id,
            step=step,
            step_source=source,
            path=read.path,
            format=read.format,
            files=tuple(self._stamp(file) for file in read.files),
            tensors=tuple(place.header for place in read.contents.places.values()),
            kind=read.placed.found.kind,
            config=read.config,
            adapter=read.adapter,
            problems=read.problems,
            notes=read.contents.notes,
        )

    def _stamp(self, file: Path) -> FileStamp:
        stat = file.stat()
        return FileStamp(self._relative(file), stat.st_size, stat.st_mtime_ns)
