"""Which checkpoints of a run are of one architecture, by the names and shapes of their tensors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.archive.adapters import adapted
from pipeline.archive.fused import model_type_of
from pipeline.archive.matrices import names_on_disk
from pipeline.archive.names import Dialect, canonical, without_wrappers
from pipeline.archive.prefixes import UNCHANGED, Prefix, find_prefix
from pipeline.archive.recipes import tensors_of
from pipeline.archive.types import Checkpoint, Layout, TensorHeader

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(tensors: Sequence[TensorHeader]) -> Shapes:
    """Tensor name, without the wrappers of torch, → shape."""
    names = without_wrappers([tensor.name for tensor in tensors])
    return {name: tensor.shape for name, tensor in zip(names, tensors, strict=True)}


def alike(one: Shapes, other: Shapes) -> bool:
    """Whether two checkpoints are of one architecture: at least half of the tensors of the smaller one are in the other
    with equal shapes. A new head, a new layer or a larger vocabulary does not change the architecture."""
    equal = sum(other.get(name) == shape for name, shape in one.items())
    return 2 * equal >= min(len(one), len(other))


def as_in_base(checkpoint: Checkpoint, base: Checkpoint) -> tuple[Mapping[str, Any], Prefix]:
    """What a base tells of a checkpoint: its config where that has none of its own, and the prefix that only one of the
    two has.

    ``torch.save(model.state_dict())`` writes no config, so that only the base's tells the names that these weights
    have in files, and how many heads a fused tensor holds. A LightningModule adds the name of its attribute
    (``net.model.layers.0…``). Full weights keep their own config, and no prefix, where the two are not of one
    architecture.
    """
    config = checkpoint.config or base.config
    is_adapter = checkpoint.kind == "adapter"
    own = adapted(checkpoint.tensors) if is_adapter else {t.name: t.shape for t in checkpoint.tensors}
    of_base = {t.name: t.shape for t in base.tensors}
    there = _on_disk(of_base, base.config, is_adapter)

    def fits(prefix: Prefix) -> bool:
        here = _on_disk(own, config, is_adapter, prefix)
        if is_adapter and prefix == UNCHANGED:  # of few modules one may be a tied head, which no file has
            return any(there.get(name) == shape for name, shape in here.items())
        return alike(here, there)

    prefix = find_prefix(list(own), list(of_base), fits)
    return config if is_adapter or prefix is not None else checkpoint.config, prefix or UNCHANGED


def _on_disk(tensors: Shapes, config: Mapping[str, Any], turned: bool, prefix: Prefix = UNCHANGED) -> Shapes:
    """Shapes by the canonical names that transformers' files have; their sizes in order where matrices may be `turned`
    (an adapter's factors do not tell how the base holds its weight)."""
    renamed = names_on_disk(list(tensors), config, prefix).values()
    dialect = Dialect.of(renamed, model_type_of(config))
    shapes = ((tuple(sorted(shape)) if turned else shape) for shape in tensors.values())
    return {canonical(name, dialect): shape for name, shape in zip(renamed, shapes, strict=True)}


def architectures(checkpoints: Mapping[int, Shapes]) -> tuple[tuple[int, ...], ...]:
    """The steps of each architecture among a run's checkpoints, in order of first appearance."""
    groups: list[tuple[Shapes, list[int]]] = []
    known: dict[int, list[int]] = {}  # checkpoints of one layout mostly share one object
    for step, shapes in sorted(checkpoints.items()):
        steps = known.get(id(shapes)) or next((steps for of, steps in groups if alike(of, shapes)), None)
        if steps is None:
            steps = []
            groups.append((shapes, steps))
        known[id(shapes)] = steps
        steps.append(step)
    return tuple(tuple(steps) for _, steps in groups)


def in_words(groups: Sequence[Sequence[int]], unit: str = "step") -> str:
    """The steps of each architecture: "steps 1, 2, 4 and step 3"."""
    return " and ".join(_steps(steps, unit) for steps in groups)


def _steps(steps: Sequence[int], unit: str, most: int = 8) -> str:
    if len(steps) == 1:
        return f"{unit} {steps[0]}"
    if len(steps) <= most:
        return f"{unit}s " + ", ".join(map(str, steps))
    return f"{len(steps)} {unit}s from {steps[0]} to {steps[-1]}"


def not_merged(layout: Layout) -> str | None:
    """Why the weights of an adapter's checkpoint cannot be rebuilt: a factor of it is not understood (DoRA and the
    like); None where all are used."""
    used = {name for spec in layout.matrices for name in tensors_of(spec.recipe)}
    reasons = {entry.tensor: entry.reason for entry in layout.unmeasured}
    unused = (t.name for t in layout.tensors if "lora_" in t.name and t.name not in used)
    return next((reasons.get(name, f"{name} is not understood") for name in unused), None)
