"""The tasks and probe sets that a store was analysed with, so that a later report finds them by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from analyzers.errors import DamageError
from analyzers.models import Material
from pipeline.archive.recipes import digest
from pipeline.store.documents import FILE, create_document, ensure_group, read_document

if TYPE_CHECKING:
    from pipeline.store.store import Store


def record_materials(store: Store, materials: Iterable[Material], model: str | None = None) -> None:
    """Keeps what an analysis was given, once. `model`: the user's "package.module:factory", which is part of it."""
    store.check_writable()
    room = store.path / "materials"
    for material in materials:
        told = {**asdict(material), "model": model}
        target = room / digest(told)
        if not (target / FILE).exists():
            ensure_group(store.path, room)
            create_document(store.path, target, {"varve": "material", **told})


def recorded_materials(store: Store) -> tuple[tuple[Material, str | None], ...]:
    """Every task and probe set with the model's factory it was used with, in a stable order."""
    room = store.path / "materials"
    if not (room / FILE).exists():
        return ()
    found = []
    for folder in sorted(entry for entry in room.iterdir() if entry.name != FILE):
        try:
            told = read_document(folder)
        except DamageError as error:
            store.note_damage(folder / FILE, error)
            continue
        found.append((Material(told["kind"], told["name"], told["digest"], told["source"]), told["model"]))
    return tuple(sorted(found, key=lambda pair: (pair[0].kind, pair[0].name, pair[0].digest, pair[1] or "")))
