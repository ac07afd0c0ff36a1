"""Several series of checkpoints in one folder become runs of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.archive.formats.metric_numbers import is_result
from pipeline.archive.name_parts import GENERIC, is_mark, parse
from pipeline.archive.series import Key, NamedStep, without_alias, without_version
from pipeline.archive.steps import is_alias
from pipeline.archive.walk import FoundCheckpoint


@dataclass(frozen=True)
class Placed:
    """A checkpoint with its run's path (parts below the root) and its named step, None when no name tells one.

    `beside_steps`: it lies in its run's folder beside the step checkpoints: a final or best one. `stranger`: it lies
    there too, but its name is that of no series there. `lone`: the file is a run of its own, and `run` is its path.
    `label`: the series' name, where `run` ends in it. `clock`: the key of the metadata that tells the steps of its run.
    """

    found: FoundCheckpoint
    run: tuple[str, ...]
    named: NamedStep | None
    beside_steps: bool = False
    stranger: bool = False
    lone: bool = False
    label: str = ""
    clock: str = ""

    @property
    def folder_run(self) -> tuple[str, ...]:
        """The run's path without the name of the series."""
        return self.run[:-1] if self.label else self.run

    @property
    def path(self) -> Path:
        """The first of its files."""
        return self.found.paths[0]

    def alone(self) -> Placed:
        """This checkpoint as a run of its own, called as its file, or as its folder below the run."""
        below = self.found.parts[len(self.run) :]
        name = below[-1] if self.found.own_folder and below else self.found.stem
        return Placed(self.found, (*self.run, name), None, lone=True)


def split_series(placed: Sequence[Placed]) -> list[Placed]:
    """Each series of a folder (a_step100, b_step100) with a run of its own; one series alone is called as the folder.

    A file without a step goes to the series that its other words name: actor_final to actor_100.
    """
    by_run: dict[tuple[str, ...], list[Placed]] = {}
    for one in placed:
        by_run.setdefault(one.run, []).append(one)
    final: dict[Path, Placed] = {}
    for run, members in by_run.items():
        named = [one for one in members if one.named]
        series = _merged(named)
        labels = [""] if len(series) == 1 else _labels(series, run, by_run)
        for label, checkpoints in zip(labels, series, strict=True):
            for one in checkpoints:
                final[one.path] = _labelled(one, run, label)
        firsts = {label: of[0].named for label, of in zip(labels, series, strict=True) if of[0].named}
        for one in members:
            if one.beside_steps:
                final[one.path] = _beside(one, firsts)
    return [final.get(one.path, one) for one in placed]


def _merged(named: Sequence[Placed]) -> list[list[Placed]]:
    """The checkpoints of each series of one folder.

    best_step_100 alone, or step_100-v1 at a step that is free, belongs to the series without that word; so does
    best_bbox_mAP_epoch_11 to epoch_12, the only series that counts the same. Names of
    different forms are one series where each form occurs once, says nothing but a step, and counts the same: step100,
    ckpt-200. What lies below the folder of a checkpoint stays with it.
    """
    keys = {one.found.folder: one.named.key for one in named if one.named and one.found.own_folder}
    series: dict[Key, list[Placed]] = {}
    for one in named:
        assert one.named is not None
        outer = next((keys[folder] for folder in one.found.folder.parents if folder in keys), one.named.key)
        series.setdefault(outer, []).append(one)
    for key in sorted(series):
        plain = without_alias(key)
        if plain != key and plain in series and len(_steps(series[key])) == 1:
            series[plain] += series.pop(key)
    plain_keys = [key for key in series if without_alias(key) == key]
    for key in sorted(set(series).difference(plain_keys)):
        if len(plain_keys) == 1 and len(_steps(series[key])) == 1 and _is_best_of(series[key], series[plain_keys[0]]):
            series[plain_keys[0]] += series.pop(key)
    for key in sorted(series):
        plain = without_version(key)
        if plain != key and plain in series and not _steps(series[key]) & _steps(series[plain]):
            series[plain] += series.pop(key)
    for unit in ("step", "epoch", "episode"):
        of_unit = [
            key for key, of in series.items() if (first := of[0].named) and first.unit == unit and not first.series
        ]
        if all(len(_steps(series[key])) == 1 for key in of_unit):
            for key in of_unit[1:]:
                series[of_unit[0]] += series.pop(key)
    return list(series.values())


def _is_best_of(best: Sequence[Placed], series: Sequence[Placed]) -> bool:
    """Whether the name of a best or last checkpoint says only that, by which score, and a step of the same unit."""
    one, other = best[0].named, series[0].named
    assert one is not None and other is not None
    return one.unit == other.unit and (not own_words(one.series) or is_result(one.series))


def _steps(placed: Sequence[Placed]) -> set[int]:
    return {one.named.step for one in placed if one.named}


def _labels(
    series: Sequence[Sequence[Placed]], run: tuple[str, ...], others: Mapping[tuple[str, ...], object]
) -> list[str]:
    """A name for each series of a folder, as short as tells it from the others; "" for the one called as the folder."""
    levels: list[list[str]] = []
    for checkpoints in series:
        named = checkpoints[0].named
        assert named is not None
        form = "_".join("N" if part == "#" else part for part in named.key)
        levels.append([named.series, *named.labels, form])
    chosen: list[str] = []
    for own in levels:
        fitting = [
            label
            for at, label in enumerate(own)
            if [other[at] for other in levels].count(label) == 1
            and label not in chosen
            and (not label or (*run, label) not in others)
        ]
        chosen.append(fitting[0] if fitting else f"{own[-1]}_files")
    return chosen


def _beside(one: Placed, series: Mapping[str, NamedStep]) -> Placed:
    """A final or best checkpoint with the run of its series."""
    if one.found.own_folder:
        return one if len(series) == 1 or "" in series else replace(one, beside_steps=False)
    # last-v1.ckpt is Lightning's second last.ckpt.
    stem = re.sub(r"-v\d+$", "", one.found.stem) if is_alias(one.found.stem) else one.found.stem
    words = own_words(stem)
    if len(series) == 1:
        (named,) = series.values()
        if not words or words == own_words(named.series):
            return one
        # Where only a guess makes these files a series, a file of another name is none of them.
        return one.alone() if named.guess else replace(one, stranger=True)
    for label, named in series.items():
        if words == own_words(named.series if label else ""):
            return _labelled(one, one.run, label)
    return one.alone()


def _labelled(one: Placed, run: tuple[str, ...], label: str) -> Placed:
    return replace(one, run=(*run, label) if label else run, label=label)


def own_words(text: str, without_marks: bool = False) -> tuple[str, ...]:
    """The words of a name but for generic ones, and best, last, final; `without_marks`: nor dates and hashes."""
    parsed = parse(text)
    marks = {slot.at for slot in parsed.slots if without_marks and is_mark(slot)}
    return tuple(
        token.word or token.text
        for at, token in enumerate(parsed.tokens)
        if token.word not in GENERIC and at not in marks
    )
