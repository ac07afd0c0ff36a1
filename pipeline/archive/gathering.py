"""Files that one clock in their metadata makes one run, though their names tell no step, or tell it in several forms.

checkpoint.pth.tar and model_best.pth.tar of epochs 90 and 85; 3f2a9c81.pt and 9bd01e55.pt of steps 100 and 200;
checkpoint1.pt and checkpoint_1_300.pt of 400 and 300 updates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise

from pipeline.archive.architectures import alike, shapes_of
from pipeline.archive.clocks import KEYS, numbers
from pipeline.archive.headers import Headers
from pipeline.archive.same import same_weights
from pipeline.archive.splitting import own_words
from pipeline.archive.steps import METADATA_KEYS

Parts = tuple[str, ...]


def gathered(members: Sequence[Headers]) -> list[Headers]:
    """The headers, those of one clock in one run whose steps that key of the metadata tells."""
    return _series_in_one(_files_in_one(members))


def _files_in_one(members: Sequence[Headers]) -> list[Headers]:
    """Files of one folder whose names differ only in best, last, final, in dates and in hashes."""
    groups: dict[tuple[Parts, Parts], list[Headers]] = defaultdict(list)
    in_folder: dict[Parts, int] = defaultdict(int)
    for one in members:
        if _names_no_step(one):
            groups[one.placed.run, own_words(one.placed.found.stem, without_marks=True)].append(one)
            in_folder[one.placed.run] += 1
    moved: dict[int, Headers] = {}
    for (run, words), files in groups.items():
        key = next((key for key in KEYS if all(key in numbers(one) for one in files)), None)
        if key is None or (words and len(files) == 1) or not _are_one_run(files, key):
            continue
        label = "" if len(files) == in_folder[run] or not words else "_".join(words)
        place = (*run, label) if label else run
        moved |= {id(one): _moved(one, place, key) for one in files}
    return [moved.get(id(one), one) for one in members]


def _names_no_step(headers: Headers) -> bool:
    placed = headers.placed
    return not (placed.named or placed.beside_steps or placed.found.own_folder or placed.lone)


def _are_one_run(files: Sequence[Headers], key: str) -> bool:
    """Whether files are of one architecture, and those that say the same step hold the same weights."""
    if not _of_one_architecture(files):
        return False
    return all(
        numbers(one)[key] != numbers(other)[key] or same_weights(one.contents, other.contents)
        for one, other in combinations(sorted(files, key=lambda one: numbers(one)[key]), 2)
    )


def _series_in_one(members: Sequence[Headers]) -> list[Headers]:
    """Series of one folder whose names say nothing but a step, each in a form of its own."""
    folders: dict[Parts, dict[Parts, list[Headers]]] = defaultdict(lambda: defaultdict(list))
    for one in members:
        if one.placed.label:
            folders[one.placed.folder_run][one.placed.run].append(one)
    moved: dict[int, Headers] = {}
    for folder, by_run in folders.items():
        plain = {run: of for run, of in by_run.items() if all(_says_only_a_step(one) for one in of)}
        named = [[one for one in of if one.placed.named] for of in plain.values()]
        key = next((key for key in METADATA_KEYS if _tells_apart(named, key)), None)
        if len(plain) > 1 and key is not None and _of_one_architecture([one for of in named for one in of]):
            moved |= {id(one): _moved(one, folder, key) for of in plain.values() for one in of}
    return [moved.get(id(one), one) for one in members]


def _says_only_a_step(headers: Headers) -> bool:
    named = headers.placed.named
    return named is None or (not named.series and named.rank != "pattern")


def _tells_apart(series: Sequence[Sequence[Headers]], key: str) -> bool:
    """Whether all checkpoints have a value of their own under a key, which rises with the step in every series."""
    values = [
        [
            numbers(one).get(key, -1)
            for one in sorted(of, key=lambda one: one.placed.named.step if one.placed.named else 0)
        ]
        for of in series
    ]
    every = [value for of in values for value in of]
    rises = all(first < second for of in values for first, second in pairwise(of))
    return bool(every) and min(every) >= 0 and rises and len(set(every)) == len(every)


def _of_one_architecture(files: Sequence[Headers]) -> bool:
    shapes = [shapes_of([place.header for place in one.contents.places.values()]) for one in files]
    return all(alike(shapes[0], other) for other in shapes[1:])


def _moved(headers: Headers, run: Parts, clock: str) -> Headers:
    return replace(headers, placed=replace(headers.placed, run=run, label="", clock=clock))
