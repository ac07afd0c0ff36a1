"""Moving averages of a model's weights that lie in the file beside the weights themselves.

``model_ema.diffusion_modeloutweight`` is the average of ``model.diffusion_model.out.weight``. It is a second copy of
the same matrices, so it is listed. A file that holds nothing but the averages is read like any other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from pipeline.archive.types import TensorHeader

_AVERAGED = re.compile(r"(?:^|_)ema(?:_|$)|^(?:averaged|swa)_model$", re.IGNORECASE)


def averaged_copies(tensors: Sequence[TensorHeader]) -> dict[str, str]:
    """The tensors below a prefix such as ``model_ema``, each with its reason, if all matrices there have their twin of
    equal name and shape outside of it."""
    below: dict[str, list[TensorHeader]] = defaultdict(list)
    for header in tensors:
        if (prefix := _prefix(header.name)) is not None:
            below[prefix].append(header)
    if not below:
        return {}
    originals = {
        (key, header.shape): header.name
        for header in tensors
        if _prefix(header.name) is None
        for key in _keys(header.name)
    }
    listed: dict[str, str] = {}
    for prefix, members in below.items():
        twins = {t.name: originals.get((_joined(t.name[len(prefix) + 1 :]), t.shape)) for t in members}
        matrices = [t for t in members if len(t.shape) > 1 and 0 not in t.shape]
        if matrices and all(twins[t.name] for t in matrices):
            listed |= {name: f"the moving average of {twin}, a second copy" for name, twin in twins.items() if twin}
    return listed


def _prefix(name: str) -> str | None:
    """The first components up to the one that speaks of an average; None where none of the first three does."""
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts[:3]) if _AVERAGED.search(part)), len(parts))
    return ".".join(parts[: at + 1]) if at < len(parts) - 1 else None


def _joined(name: str) -> str:
    return name.replace(".", "")


def _keys(name: str) -> tuple[str, ...]:
    """What an average of this tensor may be called: its name with up to two components less, without dots."""
    parts = name.split(".")
    return tuple("".join(parts[cut:]) for cut in range(min(3, len(parts))))
