"""Tensors → matrices: `describe` tells how every tensor of a checkpoint is measured, or why it is not.

Only headers and the config are looked at. Every matrix has one canonical name, the orientation (out, in), and a recipe
that cuts it from its tensors; every tensor is in a recipe or in `Layout.unmeasured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.archive.adapters import describe_adapter
from pipeline.archive.matrices import drafts_of, layout_of
from pipeline.archive.prefixes import UNCHANGED, Prefix
from pipeline.archive.recipes import Dense, LowRankProduct, Op, Recipe, to_json
from pipeline.archive.types import Checkpoint, Layout

_TURN: Op = ("permute", 1, 0)


def describe(checkpoint: Checkpoint, config: Mapping[str, Any] | None = None, prefix: Prefix = UNCHANGED) -> Layout:
    """Every tensor of the checkpoint as one or several matrices, or with the reason why not.

    `config` takes the place of the checkpoint's own: an adapter has none, and needs its base's where fused tensors
    are cut by heads. `prefix` tells how names begin in the base. Of an adapter, the Δ
    of each adapted module is described (role "delta"), see `adapters`.
    """
    config = config if config is not None else checkpoint.config
    if checkpoint.kind == "adapter":
        return describe_adapter(checkpoint, config, prefix)
    return layout_of(checkpoint.tensors, *drafts_of(checkpoint.tensors, config, prefix=prefix))


def tied_names(layout: Layout, digests: Mapping[str, str]) -> dict[str, str]:
    """Matrices that hold the same values as an earlier one: name → the name that counts.

    `digests` are the tensors' (equal digest: same dtype, shape, bytes). Orientation does not matter: an embedding
    (d, vocab) and an unembedding (vocab, d) cut from equal tensors are one matrix, and the embedding counts.
    """
    order = sorted(layout.matrices, key=lambda spec: spec.kind != "embedding")
    first: dict[str, str] = {}
    tied: dict[str, str] = {}
    for spec in order:
        content = _content(spec.recipe, digests)
        if content in first:
            tied[spec.name] = first[content]
        else:
            first[content] = spec.name
    return tied


def _content(recipe: Recipe, digests: Mapping[str, str]) -> str:
    """What a recipe holds, irrespective of orientation."""
    if isinstance(recipe, Dense):
        ops = recipe.ops[:-1] if recipe.ops and recipe.ops[-1] == _TURN else recipe.ops
        return f"{digests.get(recipe.tensor, recipe.tensor)} {list(map(list, ops))}"
    if isinstance(recipe, LowRankProduct):
        return f"{_content(recipe.b, digests)} · {_content(recipe.a, digests)} · {recipe.scale}"
    return str(to_json(recipe))
