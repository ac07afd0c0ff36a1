"""Around the building of a model: no network, and no model larger than the tensors that are there.

A config comes with an archive. transformers follows some of its settings to the network (a pretrained backbone, code on
the hub), and makes as many layers, rows of an embedding and labels as it says.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch

from analyzers.errors import Unmeasurable
from analyzers.models import ParameterInfo

NEVER_FROM_ARCHIVES = frozenset(
    ("auto_map", "quantization_config", "fusion_config", "attn_implementation", "trust_remote_code", "custom_pipelines")
)
"""Settings that make transformers run or fetch code, or expect other tensors than those stored."""
MAX_SETTING = 10_000_000
"""A whole number of a config that is no count of layers or parts; the longest contexts are of this order."""
MAX_ENTRIES = 200_000
"""Keys and elements of a config, and names in its lists of labels."""

_NETWORK = frozenset(("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"))
_COUNTS = re.compile(r"layers?$|^depths?$|_depths?$|^n_layer|num_.*(?:blocks|stages|experts|codebooks)$|^n_.*experts$")
_SIDES = re.compile(
    r"^vocab_size$|^n_embd$|^n_inner$|^d_model$|^d_ff$|^d_inner$|^num_labels$|_ffn_dim$|^dim$|^hidden_dim$|"
    r"^(?:hidden|intermediate|embedding|ffn_hidden|moe_intermediate|type_vocab)_size$"
)
# Fused and padded tensors make a side of a tensor differ from the setting by so much.
_SLACK = 8


# So many layers or columns may be asked for whatever is stored: settings that are not used say anything.
_HARMLESS = 256
_ENTRIES_SLACK, _ENTRIES_FLOOR = 4, 10_000_000


class OfflineError(RuntimeError):
    """The building of a model asked for the network."""


_forbidden = threading.local()
_installed = threading.Lock()
_hooked = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK and getattr(_forbidden, "active", False):
        raise OfflineError(f"its config needs network access ({event}), which varve never allows")


@contextmanager
def offline() -> Iterator[None]:
    """Nothing in this thread reaches the network, and the Hugging Face libraries do not try."""
    global _hooked
    with _installed:
        if not _hooked:
            sys.addaudithook(_refuse)
            _hooked = True
    before = getattr(_forbidden, "active", False)
    _forbidden.active = True
    try:
        # The libraries ask this before they try; without them there is nothing to ask.
        hub = sys.modules.get("huggingface_hub.constants")
        with mock.patch.object(hub, "HF_HUB_OFFLINE", True) if hub is not None else nullcontext():
            yield
    finally:
        _forbidden.active = before


def local_config(config: Mapping[str, Any], parameters: Sequence[ParameterInfo], where: str) -> dict[str, Any]:
    """The config without what would run or fetch code, at any depth. Raises `Unmeasurable` where it describes a model
    that the stored parameters cannot fill."""
    sides = [side for info in parameters for side in info.shape]
    limits = {"tensors": len(parameters), "side": max(sides, default=1)}
    entries = [MAX_ENTRIES]
    cleaned = _cleaned(config, limits, entries, where)
    assert isinstance(cleaned, dict)
    return cleaned


def _cleaned(value: Any, limits: Mapping[str, int], entries: list[int], where: str, key: str = "") -> Any:
    entries[0] -= 1
    if entries[0] < 0:
        raise Unmeasurable(f"{where}: its config.json has more than {MAX_ENTRIES} entries")
    if isinstance(value, Mapping):
        return {
            name: _cleaned(part, limits, entries, where, str(name))
            for name, part in value.items()
            if name not in NEVER_FROM_ARCHIVES and not (isinstance(name, str) and name.startswith("_"))
        }
    if isinstance(value, list | tuple):
        if _COUNTS.search(key):
            _check(key, sum(part for part in value if type(part) is int and part > 0), limits, where)
        return [_cleaned(part, limits, entries, where, key) for part in value]
    if type(value) is int:
        _check(key, value, limits, where)
    if type(value) is float and not math.isfinite(value):
        return None if _COUNTS.search(key) or _SIDES.search(key) else value
    return value


def _check(key: str, value: int, limits: Mapping[str, int], where: str) -> None:
    limit, what = MAX_SETTING, "more than any model has"
    if _COUNTS.search(key):
        limit = max(_HARMLESS, limits["tensors"], limits["side"] if "expert" in key else 0)
        what = f"and the checkpoint holds {limits['tensors']} tensors"
    elif _SIDES.search(key):
        limit = max(_HARMLESS, _SLACK * limits["side"])
        what = f"and the longest side of its tensors is {limits['side']}"
    if abs(value) > limit:
        shown = value if abs(value) < 10**30 else f"a number of {value.bit_length()} bits"
        raise Unmeasurable(f"{where}: its config.json says {key[:80]} = {shown}, {what}: not built")


def check_size(cls: Any, made: Any, parameters: Sequence[ParameterInfo], where: str) -> None:
    """Raises `Unmeasurable` where a model of this config has many times the entries that are stored; it is made without
    memory to be counted."""
    stored = sum(math.prod(info.shape) for info in parameters)
    with torch.device("meta"):
        entries = sum(parameter.numel() for parameter in cls(made).parameters())
    if entries > _ENTRIES_SLACK * stored + _ENTRIES_FLOOR:
        raise Unmeasurable(
            f"{where}: a {cls.__name__} of its config.json has {entries:,} entries, and the checkpoint holds "
            f"{stored:,}: not built; check that config.json belongs to this model"
        )


def without_pretrained(made: Any) -> None:
    """Turns off the pretrained parts of a config object, which some classes ask for by default, at any depth."""
    stack, seen = [made], set()
    while stack:
        config = stack.pop()
        if id(config) in seen or not hasattr(config, "__dict__"):
            continue
        seen.add(id(config))
        if getattr(config, "use_pretrained_backbone", None):
            config.use_pretrained_backbone = False
        stack += [part for part in vars(config).values() if hasattr(part, "to_dict")]
