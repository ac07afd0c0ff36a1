"""Archives on paper: the checkpoints that a model of some config would leave, for plans of what nobody has here.

archive, bases = paper_archive(PaperModel("pythia-70m", config, checkpoints=154, dtype="float16"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.archive.bases import ResolvedBase
from pipeline.archive.types import Archive, Checkpoint, Run, TensorHeader

_NOT_ADAPTED = ("embed", "lm_head", "wte", "wpe", "router", "mlp.gate.", "classifier", "pooler")


@dataclass(frozen=True)
class PaperModel:
    """A run that is planned: its config (config.json's words), how many checkpoints of what dtype it saves, full or as
    LoRA adapters of `adapter_rank` on one base, and how many such runs there are."""

    name: str
    config: Mapping[str, Any] = field(hash=False)
    checkpoints: int = 1
    dtype: str = "bfloat16"
    adapter_rank: int | None = None
    runs: int = 1


def paper_archive(model: PaperModel, checkpoints: int | None = None) -> tuple[Archive, dict[str, ResolvedBase]]:
    """The archive of one such run, of so many checkpoints, and what it is compared with: an adapter with its base, a
    full run with its own first step. Raises `ParameterError` for a config that transformers does not know."""
    from pipeline.models.shapes import headers_of

    headers = headers_of(model.config, model.dtype, model.name)
    steps = range(model.checkpoints if checkpoints is None else checkpoints)
    root = Path(f"paper/{model.name}")

    def checkpoint(
        run: str, step: int, tensors: tuple[TensorHeader, ...], adapter: Mapping[str, Any] | None
    ) -> Checkpoint:
        kind: Literal["full", "adapter"] = "full" if adapter is None else "adapter"
        config = model.config if adapter is None else {}
        return Checkpoint(
            run, step, "name", root / run / f"step{step}", "safetensors", (), tensors, kind, config, adapter
        )

    if model.adapter_rank is None:
        run = Run(model.name, root, tuple(checkpoint(model.name, step, headers, None) for step in steps))
        first = ResolvedBase(run, run.checkpoints[0], "first_step")
        return Archive(model.name, root, (run,)), {run.id: first}
    rank = model.adapter_rank
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    factors = tuple(t for header in headers for t in _factors(header, rank))
    base_id = f"{model.name}/base"
    base = Run(base_id, root / "base", (checkpoint(base_id, 0, headers, None),), role="base")
    run = Run(model.name, root, tuple(checkpoint(model.name, step, factors, settings) for step in steps))
    return Archive(model.name, root, (base, run)), {run.id: ResolvedBase(base, base.checkpoints[0], "sibling")}


def _factors(header: TensorHeader, rank: int) -> tuple[TensorHeader, ...]:
    """A and B of every plain linear inside the layers; experts that are fused in 3-D are left alone, as PEFT does."""
    if len(header.shape) != 2 or not header.name.endswith(".weight") or any(w in header.name for w in _NOT_ADAPTED):
        return ()
    module = header.name.removesuffix(".weight")
    m, n = header.shape
    itemsize = header.nbytes // (m * n)
    return tuple(
        TensorHeader(
            f"base_model.model.{module}.lora_{factor}.weight", header.dtype, shape, itemsize * shape[0] * shape[1]
        )
        for factor, shape in (("A", (rank, n)), ("B", (m, rank)))
    )
