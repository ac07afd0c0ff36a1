"""The base that a run is compared with: found by a fixed order of places, or `BaseNotFoundError` with all of them.

An adapter: what the user gave, the catalog's map, the path in its config, a sibling ``base/``, the local Hugging Face
cache. A full run: given, catalog, sibling, else its own first step (flagged). Nothing is ever downloaded. A path means
the weights at that path, whatever else holds the same ones.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from analyzers.errors import ArchiveError, BaseNotFoundError
from pipeline.archive import filenames
from pipeline.archive.formats import sharded
from pipeline.archive.guarded import read_regular
from pipeline.archive.heads import stands_like, tied_name, turned
from pipeline.archive.recipes import Dense, digest
from pipeline.archive.same import same_checkpoint
from pipeline.archive.steps import step_from_name
from pipeline.archive.text import real_path, visible
from pipeline.archive.types import Archive, Checkpoint, Layout, MatrixSpec, Run
from pipeline.archive.walk import own_weights

Opener = Callable[[Path, str], Archive]
"""Reads the headers of a folder or file, under a name: `pipeline.archive.open_archive`."""

_COMPONENT = re.compile(r"\w[\w.\-]{0,95}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{3,64}")
_STEP_LIKE = re.compile(r"\d|final|last|best|^model|^base$|^output$", re.IGNORECASE)


@dataclass(frozen=True)
class BaseOption:
    """One ``--base`` value: `target` (a path, or RUN[@STEP]) for the runs whose id fits `runs`, a glob."""

    runs: str
    target: str


@dataclass(frozen=True)
class ResolvedBase:
    """The checkpoint that a run is compared with, and how it was chosen.

    `kind`: "given", "catalog", "sibling", "adapter_config", "hf_cache" or "first_step". `run` holds `checkpoint`; it
    has the role "base" when it lies outside the archive. `notes`: what the reader of the report should know of it.
    """

    run: Run
    checkpoint: Checkpoint
    kind: str
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """ "run@step", as stored with the run that is compared."""
        return f"{self.run.id}@{self.checkpoint.step}"


@dataclass(frozen=True)
class Unmatched:
    """A matrix of a run without its counterpart in the base, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class BaseMatch:
    """Pairs (the run's matrix, the base's) of one name and shape, and the run's matrices that have none."""

    pairs: tuple[tuple[MatrixSpec, MatrixSpec], ...]
    unmatched: tuple[Unmatched, ...] = ()


def parse_base_options(values: Sequence[str]) -> tuple[BaseOption, ...]:
    """``--base`` values in order: PATH or RUN[@STEP] for every run, RUN_GLOB=PATH (or RUN_GLOB=RUN[@STEP]) for some.

    A value that is an existing path is one, even with "=" inside.
    """
    options = []
    for value in values:
        glob, equals, target = value.partition("=")
        if not equals or _exists(_home(value)):
            glob, target = "*", value
        if not glob or not target:
            raise ArchiveError(f"--base {value!r}: expected PATH, RUN, RUN@STEP or RUN_GLOB=PATH")
        options.append(BaseOption(glob, target))
    return tuple(options)


def resolve_base(
    run: Run,
    archive: Archive,
    given: Sequence[BaseOption] | str | None = None,
    catalog_map: Mapping[str, str] | None = None,
    open_path: Opener | None = None,
    environ: Mapping[str, str] | None = None,
) -> ResolvedBase:
    """The base of one run.

    `given`: parsed ``--base`` options (the first whose glob fits; globs before the general ones), or one value.
    `catalog_map`: run glob → path or RUN[@STEP], relative to the archive. `open_path` reads a folder that is outside
    the archive. What is given and cannot be found is an error; the other places are tried in turn.
    """
    search = _BaseSearch(run, archive, open_path or _open_archive, [])
    options = parse_base_options([given]) if isinstance(given, str) else tuple(given or ())
    chosen = option_for(options, run, archive)
    if chosen is not None:
        return search.required(chosen.target, "given", (Path.cwd(), archive.root))
    for glob, target in (catalog_map or {}).items():
        if _fits(run, archive, glob):
            return search.required(target, "catalog", (archive.root,))
    adapter = next((c.adapter for c in run.checkpoints if c.adapter is not None), None)
    named = str((adapter or {}).get("base_model_name_or_path") or (adapter or {}).get("_name_or_path") or "")
    own = search.named_by_adapter(named) if named else None
    sibling = search.sibling()
    if own is not None:
        return _rather_than(own, sibling)
    if sibling is not None:
        return sibling
    if adapter is None and run.checkpoints and all(c.kind == "full" for c in run.checkpoints):
        return ResolvedBase(run, run.checkpoints[0], "first_step")
    revision = str((adapter or {}).get("revision") or "main")
    for snapshot in hf_snapshots(named, revision, os.environ if environ is None else environ):
        if cached := search.path(snapshot, "hf_cache", f"{named}~{snapshot.name[:7]}"):
            return cached
    raise search.failure(f"its adapter_config.json names {named[:200]!r}" if named else "its config names no base")


def _rather_than(own: ResolvedBase, sibling: ResolvedBase | None) -> ResolvedBase:
    """The base that an adapter names itself, with a note when a ``base/`` beside it holds other weights."""
    if sibling is None:
        return own
    if sibling.checkpoint.path == own.checkpoint.path:
        return sibling
    if same_checkpoint(own.checkpoint, sibling.checkpoint):
        return own
    note = (
        f"compared with {own.reference}, named in adapter_config.json ({own.checkpoint.path}); "
        f"{sibling.reference} ({sibling.checkpoint.path}) holds other weights and is not used; choose it with --base"
    )
    return replace(own, notes=(*own.notes, note))


def hf_snapshots(name: str, revision: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the local Hugging Face cache would hold a model "org/name": the revision's snapshot, in each cache folder.

    refs/<revision> holds the commit; a revision that is a commit itself is a snapshot's name. Both names come from an
    archive: those that would lead out of the cache's folder give nothing.
    """
    if not _is_safe(name, 2) or not _is_safe(revision, 4):
        return ()
    places = []
    for cache in hf_caches(environ):
        model = cache / f"models--{name.replace('/', '--')}"
        ref = model / "refs" / revision
        commit = _commit(ref) if _exists(ref) and ref.is_file() else revision
        if commit and "/" not in commit:
            places.append(model / "snapshots" / commit)
    return tuple(places)


def _is_safe(name: str, most: int) -> bool:
    """Whether a name has at most so many components, each a plain file name that leads nowhere else."""
    parts = name.split("/")
    return len(parts) <= most and all(_COMPONENT.fullmatch(part) for part in parts)


def _commit(ref: Path) -> str:
    """The commit in a file of the cache; "" when it holds anything else, which is never shown."""
    try:
        text = read_regular(ref, 100).decode("ascii").strip()
    except (ArchiveError, OSError, UnicodeDecodeError):
        return ""
    return text if _COMMIT.fullmatch(text) else ""


def hf_caches(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The Hugging Face cache folders by the library's rules: HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(variable):
            return (Path(environ[variable]).expanduser(),)
    if environ.get("HF_HOME"):
        return (Path(environ["HF_HOME"]).expanduser() / "hub",)
    home = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(home).expanduser() / "huggingface" / "hub",)


def match_base(run: Layout, base: Layout, config: Mapping[str, Any] | None = None) -> BaseMatch:
    """Which matrix of the base each matrix of a run (weight or Δ) is compared with: same name, same shape.

    `config` is the base's: where it ties embeddings, the output head is compared with the one tensor of both, turned.
    Circuits are matched like any other matrix when both layouts hold them.
    """
    by_name = {spec.name: spec for spec in base.matrices}
    pairs: list[tuple[MatrixSpec, MatrixSpec]] = []
    unmatched: list[Unmatched] = []
    for spec in run.matrices:
        other = by_name.get(spec.name) or by_name.get(tied_name(spec, base.matrices, config or {}) or "")
        if other is not None and not stands_like(spec, other) and isinstance(other.recipe, Dense):
            recipe, shape = turned(other.recipe), (other.shape[1], other.shape[0])
            other = replace(other, shape=shape, recipe=recipe, orientation=spec.orientation)
        if other is None:
            near = difflib.get_close_matches(spec.name, by_name, n=3, cutoff=0.8)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            unmatched.append(Unmatched(spec.name, f"the base has no matrix of this name{hint}"))
        elif other.shape != spec.shape:
            unmatched.append(Unmatched(spec.name, f"shapes differ: {spec.shape} here, {other.shape} in the base"))
        else:
            pairs.append((spec, other))
    return BaseMatch(tuple(pairs), tuple(unmatched))


def outside_name(path: Path) -> str:
    """The name of a base outside the archive: its folder's, and six digits of its whole path.

    Two bases of one folder name (``a/checkpoint-500``, ``b/checkpoint-500``) never become one run of a store.
    """
    folder = path if path.is_dir() else path.parent
    label = visible(folder.name) or "base"
    if _STEP_LIKE.search(label) and folder.parent.name:
        label = f"{visible(folder.parent.name)}/{label}"
    return f"{label}~{digest(str(path))[:6]}"


def check_base_options(options: Sequence[BaseOption], archive: Archive) -> None:
    """ArchiveError when a RUN_GLOB fits no run: a misspelt one would be ignored in silence."""
    for option in options:
        if not any(_fits(run, archive, option.runs) for run in archive.runs):
            ids = [run.id for run in archive.runs]
            near = difflib.get_close_matches(option.runs, ids, n=3, cutoff=0.0)
            raise ArchiveError(
                f"--base {option.runs}={option.target}: no run matches; runs: {', '.join(near) or 'none'}"
            )


def _is_called_weights(path: Path) -> bool:
    return filenames.is_weights_name(path) or sharded.is_index(path)


def _last_step(folder: Path) -> tuple[Path, ...]:
    """The weights of a run's last step, in a folder directly below the run's that is called by its step."""
    try:
        below = {entry.name: step_from_name(entry.name) for entry in os.scandir(folder) if entry.is_dir()}
    except (OSError, ValueError):
        return ()
    steps = sorted((step.step, name) for name, step in below.items() if step is not None)
    return own_weights(folder / steps[-1][1]) if steps else ()


def _exists(path: Path) -> bool:
    """Whether the path exists; False for text that is no valid path (too long, a NUL inside) or is forbidden."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _home(text: str) -> Path:
    """The path with a leading ~ resolved; unchanged when there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _fits(run: Run, archive: Archive, glob: str) -> bool:
    """Whether a glob names this run, with or without the archive's name before it."""
    return fnmatchcase(run.id, glob) or fnmatchcase(run.id.removeprefix(f"{archive.name}/"), glob)


def option_for(options: Sequence[BaseOption], run: Run, archive: Archive) -> BaseOption | None:
    """The option for a run: the first glob that fits, those for every run last."""
    fitting = [o for o in options if _fits(run, archive, o.runs)]
    return next((o for o in fitting if o.runs != "*"), fitting[0] if fitting else None)


def _open_archive(path: Path, name: str) -> Archive:
    from pipeline.archive.discover import open_archive  # here: only a base outside the archive is opened

    return open_archive(path, name)


@dataclass
class _BaseSearch:
    """One run's search, with every place it looked at."""

    run: Run
    archive: Archive
    open_path: Opener
    looked: list[str]

    def required(self, target: str, kind: str, starts: Sequence[Path]) -> ResolvedBase:
        """What the user named: a run of the archive, or a path."""
        if not target.startswith(("/", "./", "../", "~")) and (base := self.named(target, kind)):
            return base
        for start in starts:
            if base := self.path(start / _home(target), kind):
                return base
        raise self.failure(f"{kind} as {target!r}")

    def named(self, target: str, kind: str) -> ResolvedBase | None:
        """RUN or RUN@STEP inside the archive; STEP may be "first" or "last".

        RUN alone is its folder: the folder's own weights where there are some, else the last step.
        """
        name, at, step = target.rpartition("@")
        if not at:
            name, step = target, "last"
        ids = (name, f"{self.archive.name}/{name}")
        for run in self.archive.runs:
            if run.id not in ids:
                continue
            if not at and own_weights(run.path):
                return self.path(run.path, kind)
            checkpoint = _at_step(run, step)
            if checkpoint is not None and checkpoint.kind == "adapter":
                self._looked(f"{run.id}@{checkpoint.step} (an adapter, but a base needs full weights)")
                return None
            if checkpoint is not None:
                return ResolvedBase(run, checkpoint, kind)
            steps = ", ".join(str(c.step) for c in run.checkpoints) or "none"
            self._looked(f"run {run.id!r} has no step {step} (its steps: {steps})")
            return None
        self._looked(f"no run {name!r} in the archive {self.archive.name!r}")
        return None

    def sibling(self) -> ResolvedBase | None:
        """A run in a folder ``base`` in the run's folder, beside it, or beside one of its parents; nearest first."""
        root = self.archive.root
        inside = [p for p in (self.run.path, *self.run.path.parents) if p == root or root in p.parents]
        for place in (folder / "base" for folder in inside):
            if place == self.run.path or place in self.run.path.parents:
                continue
            for run in self.archive.runs:
                here = run.path == place or place in run.path.parents
                full = [c for c in run.checkpoints if c.kind == "full"]
                if here and full and run.id != self.run.id:
                    own = self.path(place, "sibling") if own_weights(place) else None
                    return own or ResolvedBase(run, full[-1], "sibling")
            self._looked(f"{place} (not a run)")
        return None

    def named_by_adapter(self, name: str) -> ResolvedBase | None:
        """The path in an adapter's config: absolute, or relative to the adapter, its run, the archive, or here."""
        first = self.run.checkpoints[0].path
        starts = (first if first.is_dir() else first.parent, self.run.path, self.archive.root, Path.cwd())
        return next((base for start in starts if (base := self.path(start / _home(name), "adapter_config"))), None)

    def path(self, path: Path, kind: str, name: str | None = None) -> ResolvedBase | None:
        """The weights at this path: the file itself, a folder's own file, else the last step of the run in it.

        A checkpoint of the archive where it is that file, or holds the same weights in the same folder; otherwise
        what is opened there now, as a run outside the archive.
        """
        path = real_path(os.path.normpath(path.absolute()))
        if not _exists(path):
            self._looked(f"{path} (does not exist)")
            return None
        files = (path,) if path.is_file() else own_weights(path)
        real = {os.path.realpath(file) for file in files}
        full = [(run, c) for run in self.archive.runs for c in run.checkpoints if c.kind == "full"]
        there = [ResolvedBase(run, c, kind) for run, c in full if os.path.realpath(c.path) in real]
        if not files:
            there = [ResolvedBase(run, c, kind) for run, c in full if c.path.parent == path]
            last = [ResolvedBase(r, c, kind) for r, c in full if r.path == path and c.step == r.checkpoints[-1].step]
            there = there if len(there) == 1 else last
        if len(there) == 1:
            return there[0]
        name = name or outside_name(path)
        folder = path.parent if path.is_file() else path
        steps = [ResolvedBase(run, c, kind) for run, c in reversed(full) if run.path == folder]
        if kind == "adapter_config":
            # The archive's word, not the user's: nothing is searched, and only what is called weights is opened.
            called = [file for file in files or _last_step(path) if _is_called_weights(file)]
            if not called:
                self._looked(f"{path} (no weights)")
            return self._own(called, steps, kind, name)
        if files and steps:
            return self._own(files, steps, kind, name)
        outside = self._opened(path, kind, name)
        if not files or path.is_file():
            return outside
        if outside is not None:
            steps = [replace(outside, checkpoint=c) for c in reversed(outside.run.checkpoints) if c.kind == "full"]
        by_path = next((step for step in steps if os.path.realpath(step.checkpoint.path) in real), None)
        return by_path or self._own(files, steps, kind, name)

    def _own(self, files: Sequence[Path], steps: Sequence[ResolvedBase], kind: str, name: str) -> ResolvedBase | None:
        """The first of a folder's own files that can be read: as the step that holds the same weights, or by itself."""
        for file in files:
            if own := self._opened(file, kind, name):
                return next((step for step in steps if same_checkpoint(own.checkpoint, step.checkpoint)), own)
        return None

    def _opened(self, path: Path, kind: str, name: str) -> ResolvedBase | None:
        """What lies at a path, opened now: the last full checkpoint of its one run."""
        try:
            opened = self.open_path(path, name)
        except ArchiveError as error:
            self._looked(f"{path} (no readable weights)" if kind == "adapter_config" else str(error))
            return None
        runs = [r for r in opened.runs if any(c.kind == "full" for c in r.checkpoints)]
        if len(runs) != 1:
            ids = ", ".join(r.id for r in runs) or "none"
            problems = "" if kind == "adapter_config" else "".join(f"; {p}" for p in opened.problems[:3])
            self._looked(f"{path} (expected one run of full weights, found {ids}{problems})")
            return None
        last = [c for c in runs[0].checkpoints if c.kind == "full"][-1]
        return ResolvedBase(replace(runs[0], role="base"), last, kind)

    def _looked(self, place: str) -> None:
        if place not in self.looked:
            self.looked.append(place)

    def failure(self, why: str) -> BaseNotFoundError:
        places = "; ".join(self.looked) or "nowhere"
        return BaseNotFoundError(
            f"run {self.run.id!r}: its base was not found ({why}). Looked at: {places}. "
            f"Give it with --base PATH, --base RUN@STEP or --base {self.run.id}=PATH",
            why,
            tuple(self.looked),
        )


def _at_step(run: Run, step: str) -> Checkpoint | None:
    if not run.checkpoints or step == "last":
        return run.checkpoints[-1] if run.checkpoints else None
    if step == "first":
        return run.checkpoints[0]
    return next((c for c in run.checkpoints if str(c.step) == step), None)
