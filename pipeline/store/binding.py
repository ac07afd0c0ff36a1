"""Binds a layout's recipes (tensors by name) to one checkpoint (tensors by digest), and drops tied duplicates.

A thousand checkpoints share a layout, so each recipe's canonical JSON is prepared once and only digests are filled in.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import blake3

from pipeline.archive.recipes import Dense, LowRankProduct, Recipe, rename, tensors_of, to_json
from pipeline.archive.types import Layout, MatrixSpec, Unmeasured
from pipeline.store.records import BoundMatrix, CheckpointRecord


@dataclass(frozen=True)
class Binding:
    """The matrices of one checkpoint, and every tensor of it that yields none, with the reason."""

    matrices: tuple[BoundMatrix, ...]
    unmeasured: tuple[Unmeasured, ...]


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


def bind(record: CheckpointRecord, layout: Layout) -> Binding:
    """The matrices of a checkpoint, in the layout's order; of matrices with equal content (tied tensors) one counts.

    Equal is equal whichever way round (an embedding and the output head tied to it), and of two the embedding counts.
    """
    digests = digest_map(record, layout)
    unreadable = {problem.tensor: problem.reason for problem in record.problems if problem.tensor}
    unmeasured = list(layout.unmeasured)
    matrices: list[BoundMatrix] = []
    tied = _tied(layout, digests)
    for template in templates(layout):
        bound = [digests[name] for name in template.tensors]
        if None in bound:
            missing = template.tensors[bound.index(None)]
            why = unreadable.get(missing, "it could not be read")
            unmeasured.append(Unmeasured(missing, f"no values for {template.spec.name}: {why}"))
        elif template.spec.name in tied:
            unmeasured.append(Unmeasured(template.tensors[0], f"tied to {tied[template.spec.name]}"))
        else:
            known = tuple(digest for digest in bound if digest is not None)
            matrices.append(template.bind(known))
    return Binding(tuple(matrices), tuple(unmeasured))


def _tied(layout: Layout, digests: Mapping[str, str | None]) -> dict[str, str]:
    """Matrix → the earlier one that holds the same values."""
    first: dict[tuple[object, ...], str] = {}
    tied: dict[str, str] = {}
    for template in _embeddings_first(layout):
        content = tuple(digests[name] for name in template.tensors) + template.cut
        name = template.spec.name
        if first.setdefault(content, name) != name:
            tied[name] = first[content]
    return tied


def _bound_recipe(template: _Template, digests: tuple[str, ...]) -> Recipe:
    recipe = template.spec.recipe
    if isinstance(recipe, Dense):
        return Dense(digests[0], recipe.ops)
    return rename(recipe, dict(zip(template.tensors, digests, strict=True)).__getitem__)


def digest_map(record: CheckpointRecord, layout: Layout) -> Mapping[str, str | None]:
    """Tensor name → digest of a checkpoint (None: it could not be read)."""
    return dict(zip((tensor.name for tensor in layout.tensors), record.digests, strict=True))
