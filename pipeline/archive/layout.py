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
from pipeline.archive.types import Checkpoint, Layout


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
