"""Small real models and what varve makes of them: shared by the tests of names, layouts, adapters and circuits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings

from pipeline.archive.layout import describe
from pipeline.archive.recipes import Dense, LowRankProduct, Recipe, apply_ops, tensors_of
from pipeline.archive.types import Checkpoint, Layout, TensorHeader

PROPERTY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For property tests: a busy machine is no finding."""

State = Mapping[str, torch.Tensor]


def headers(state: State) -> tuple[TensorHeader, ...]:
    return tuple(
        TensorHeader(name, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.numel() * t.element_size())
        for name, t in state.items()
    )


def checkpoint(
    tensors: State | tuple[TensorHeader, ...],
    config: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | None = None,
    path: Path = Path("nowhere"),
) -> Checkpoint:
    found = tensors if isinstance(tensors, tuple) else headers(tensors)
    kind = "full" if adapter is None else "adapter"
    return Checkpoint("run", 0, "none", path, "memory", (), found, kind, config or {}, adapter)


def layout_of(state: State, config: Mapping[str, Any] | None = None) -> Layout:
    return describe(checkpoint(state, config))


def matrix(recipe: Recipe, state: State) -> np.ndarray:
    """The matrix that a recipe cuts, in float64: an independent replay with nothing but numpy."""
    if isinstance(recipe, Dense):
        return apply_ops(state[recipe.tensor].double().numpy(), recipe.ops)
    assert isinstance(recipe, LowRankProduct)
    return recipe.scale * (matrix(recipe.b, state) @ matrix(recipe.a, state))


def matrices(layout: Layout, state: State) -> dict[str, np.ndarray]:
    """All matrices by name; each has the shape that its spec promised."""
    found = {}
    for spec in layout.matrices:
        found[spec.name] = matrix(spec.recipe, state)
        assert found[spec.name].shape == spec.shape, spec
    return found


def assert_accounted(layout: Layout) -> None:
    """Every tensor is in a matrix or listed, never both; no two matrices share a name."""
    measured = {name for spec in layout.matrices for name in tensors_of(spec.recipe)}
    listed = [u.tensor for u in layout.unmeasured]
    assert len(listed) == len(set(listed))
    assert measured | set(listed) == {t.name for t in layout.tensors}
    assert not measured & set(listed)
    names = [spec.name for spec in layout.matrices]
    assert len(names) == len(set(names))
    assert all(u.reason for u in layout.unmeasured)
