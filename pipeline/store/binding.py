"""Binds a layout's recipes (tensors by name) to one checkpoint (tensors by digest), and finds equal ones (tied?).

A thousand checkpoints share a layout, so each recipe's canonical JSON is prepared once and only digests are filled in.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import blake3

from pipeline.archive.recipes import Dense, LowRankProduct, Recipe, rename, tensors_of, to_json
from pipeline.archive.types import Layout, MatrixSpec, Unmeasured
from pipeline.store.records import BoundMatrix, CheckpointRecord
from pipeline.store.ties import Candidate, Content


@dataclass(frozen=True)
class Binding:
    """The matrices of one checkpoint, every tensor of it that yields none, with the reason, and the tied `twins`."""

    matrices: tuple[BoundMatrix, ...]
    unmeasured: tuple[Unmeasured, ...]
    twins: tuple[BoundMatrix, ...] = ()


@dataclass(frozen=True)
class _Template:
    """A recipe as canonical JSON, cut where its tensors' names stand."""

    spec: MatrixSpec
    tensors: tuple[str, ...]
    pieces: tuple[str, ...]
    slots: tuple[int, ...]
    cut: tuple[object, ...]
    last: dict[tuple[str, ...], BoundMatrix] = field(default_factory=dict, compare=False)

    def bind(self, digests: tuple[str, ...]) -> BoundMatrix:
        """The matrix of these tensors. The last one is kept: a frozen matrix is one object in all checkpoints."""
        bound = self.last.get(digests)
        if bound is None:
            bound = BoundMatrix(self.spec, _bound_recipe(self, digests), self.key(digests))
            self.last.clear()
            self.last[digests] = bound
        return bound

    def key(self, digests: tuple[str, ...]) -> str:
        """`recipe_key` of the bound recipe: the same hash of the same text."""
        text = [self.pieces[0]]
        for slot, piece in zip(self.slots, self.pieces[1:], strict=True):
            text += (digests[slot], piece)
        return blake3.blake3("".join(text).encode()).hexdigest(length=16)


def _template(spec: MatrixSpec) -> _Template:
    names = tuple(dict.fromkeys(tensors_of(spec.recipe)))
    marks = {name: f"\x00{index}\x00" for index, name in enumerate(names)}
    marked = json.dumps(to_json(rename(spec.recipe, marks.__getitem__)), sort_keys=True, separators=(",", ":"))
    parts = marked.split("\\u0000")  # how JSON spells the mark: text, index, text, index, ..., text
    slots = tuple(int(index) for index in parts[1::2])
    return _Template(spec, names, tuple(parts[0::2]), slots, _cut(spec.recipe))


def _cut(recipe: Recipe) -> tuple[object, ...]:
    """What a recipe does to its tensors, whichever way round the result is."""
    if isinstance(recipe, Dense):
        turned = bool(recipe.ops) and recipe.ops[-1] == ("permute", 1, 0)
        return recipe.ops[:-1] if turned else recipe.ops
    if isinstance(recipe, LowRankProduct):
        return (recipe.b.ops, recipe.a.ops, recipe.scale)
    return (recipe.base.ops, recipe.delta.b.ops, recipe.delta.a.ops, recipe.delta.scale)


@functools.lru_cache(maxsize=64)
def templates(layout: Layout) -> tuple[_Template, ...]:
    """The prepared recipes of a layout, in its order."""
    return tuple(_template(spec) for spec in layout.matrices)


@functools.lru_cache(maxsize=64)
def _embeddings_first(layout: Layout) -> tuple[_Template, ...]:
    return tuple(sorted(templates(layout), key=lambda template: template.spec.kind != "embedding"))


def bind(record: CheckpointRecord, layout: Layout, tied: Mapping[str, str] | None = None) -> Binding:
    """The matrices of a checkpoint, in the layout's order. `tied`: matrix → the one that counts instead of it.

    The matrix that does not count is among `twins`: another checkpoint, where the two differ, is compared with it.
    """
    digests = digest_map(record, layout)
    unreadable = {problem.tensor: problem.reason for problem in record.problems if problem.tensor}
    unmeasured = list(layout.unmeasured)
    matrices: list[BoundMatrix] = []
    twins: list[BoundMatrix] = []
    for template in templates(layout):
        bound = [digests[name] for name in template.tensors]
        known = tuple(digest for digest in bound if digest is not None)
        if len(known) < len(bound):
            missing = template.tensors[bound.index(None)]
            why = unreadable.get(missing, "it could not be read")
            unmeasured.append(Unmeasured(missing, f"no values for {template.spec.name}: {why}"))
        elif tied and template.spec.name in tied:
            unmeasured.append(Unmeasured(template.tensors[0], f"tied to {tied[template.spec.name]}"))
            twins.append(template.bind(known))
        else:
            matrices.append(template.bind(known))
    return Binding(tuple(matrices), tuple(unmeasured), tuple(twins))


def equal_groups(record: CheckpointRecord, layout: Layout) -> tuple[tuple[Candidate, ...], ...]:
    """The matrices of a checkpoint that have equal content, whichever way round; of each group embeddings first."""
    digests = digest_map(record, layout)
    groups: dict[Content, list[Candidate]] = {}
    for template in _embeddings_first(layout):
        known = tuple(digest for name in template.tensors if (digest := digests[name]) is not None)
        if len(known) == len(template.tensors):
            spec = template.spec
            groups.setdefault((known, template.cut), []).append(
                Candidate(spec.name, spec.kind, template.tensors, known)
            )
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def contents(record: CheckpointRecord, layout: Layout, names: Sequence[str]) -> dict[str, Content | None]:
    """What some matrices are made of in a checkpoint; None for one that is not there or could not be read."""
    found: dict[str, Content | None] = dict.fromkeys(names)
    by_name, index = _by_name(layout)
    for name in names:
        if name in by_name:
            template = by_name[name]
            digests = [record.digests[index[tensor]] for tensor in template.tensors]
            if None not in digests:
                found[name] = (*digests, template.cut)
    return found


@functools.lru_cache(maxsize=64)
def _by_name(layout: Layout) -> tuple[dict[str, _Template], dict[str, int]]:
    index = {tensor.name: at for at, tensor in enumerate(layout.tensors)}
    return {template.spec.name: template for template in templates(layout)}, index


def _bound_recipe(template: _Template, digests: tuple[str, ...]) -> Recipe:
    recipe = template.spec.recipe
    if isinstance(recipe, Dense):
        return Dense(digests[0], recipe.ops)
    return rename(recipe, dict(zip(template.tensors, digests, strict=True)).__getitem__)


def digest_map(record: CheckpointRecord, layout: Layout) -> Mapping[str, str | None]:
    """Tensor name → digest of a checkpoint (None: it could not be read)."""
    return dict(zip((tensor.name for tensor in layout.tensors), record.digests, strict=True))
