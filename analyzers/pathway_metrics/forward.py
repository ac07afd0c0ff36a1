"""Runs a probe through a model: batches on the device, padding masked, one loss per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from analyzers.errors import ResourceError, Unmeasurable, VarveError
from analyzers.models import WholeCheckpoint
from analyzers.pathway_metrics.probe import Probe

_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_GPU_SHARE = 0.8
"""Of a GPU's free memory, what a model may take: activations need the rest."""


def without_place(error: VarveError, checkpoint: WholeCheckpoint) -> VarveError:
    """The same error without the checkpoint's name in front: it is listed beside its places, which may be several."""
    return type(error)(str(error).removeprefix(f"{checkpoint.run}@{checkpoint.step}: "))


@dataclass(frozen=True)
class ProbeBatch:
    """A batch as hooks need it: `sample` int64 (B·T,) the sample of each token, `keep` (B·T,) bool or None for all."""

    sample: torch.Tensor
    keep: torch.Tensor | None


def check_probe(model: torch.nn.Module, probe: Probe) -> None:
    """Raises `Unmeasurable` where the probe cannot go through this model: too long, or ids that it has not."""
    if not probe.tokens:
        return
    config = getattr(model, "config", None)
    longest = int(probe.lengths.max())
    context = next((getattr(config, name) for name in _CONTEXT if isinstance(getattr(config, name, None), int)), None)
    if context is not None and longest > context:
        raise Unmeasurable(
            f"the probe {probe.name} has a sample of {longest} tokens, and the model's context is {context}: "
            f"set max_length: {context} in the probe file, or shorten its samples"
        )
    table = _embeddings(model)
    if table is None:
        return
    largest = int(probe.inputs.max())
    if largest >= table or (probe.vocabulary or 0) > table:
        ids = f"a tokenizer of {probe.vocabulary} ids" if probe.vocabulary else f"token id {largest}"
        raise Unmeasurable(
            f"the probe {probe.name} has {ids}, and the model's vocabulary has {table}: "
            "its tokenizer is not this model's; name the right one in the probe file (tokenizer: FOLDER)"
        )


def _embeddings(model: torch.nn.Module) -> int | None:
    """How many token ids the model knows."""
    getter = getattr(model, "get_input_embeddings", None)
    try:
        table = getter() if callable(getter) else None
    except NotImplementedError:  # how transformers' models say that they have no one table of tokens
        table = None
    if table is None:
        table = next((module for module in model.modules() if isinstance(module, torch.nn.Embedding)), None)
    count = getattr(table, "num_embeddings", None)
    return count if isinstance(count, int) else None


@torch.inference_mode()
def run_probe(
    model: torch.nn.Module, probe: Probe, device: torch.device, begin: Callable[[ProbeBatch], None]
) -> np.ndarray:
    """Every batch goes through the model; `begin` is told of each before its forward pass.

    Returns the loss per sample (N,) float32: cross-entropy at the last place against `labels`; without labels, for
    token models whose output is over the vocabulary, the mean over next tokens; else NaN.
    """
    device = _place(model, device)
    of_transformers = hasattr(getattr(model, "config", None), "model_type")
    losses = torch.full((len(probe),), torch.nan, dtype=torch.float32, device=device)
    for rows in probe.batches():
        length = int(probe.lengths[rows].max()) if probe.tokens else 1
        cut = probe.inputs[rows, :length] if probe.tokens else probe.inputs[rows]
        inputs = torch.from_numpy(np.ascontiguousarray(cut)).to(device)
        mask = torch.from_numpy(np.arange(length) < probe.lengths[rows, None]).to(device)
        at = torch.from_numpy(rows).to(device)
        per_token = at.repeat_interleave(length)
        begin(ProbeBatch(per_token, None if bool((probe.lengths[rows] == length).all()) else mask.flatten()))
        as_text = of_transformers and probe.tokens
        logits = _call(model, inputs, mask) if as_text else _logits(model(inputs))
        loss = _loss(logits, inputs, mask, probe, rows)
        if loss is not None:
            losses[at] = loss.to(losses)
    return losses.cpu().numpy()


def _place(model: torch.nn.Module, device: torch.device) -> torch.device:
    """Puts the model on the device, layer by layer as needed where it does not fit; returns where inputs go."""
    if hasattr(model, "hf_device_map"):  # larger than memory: its layers come from disk to the CPU
        return torch.device("cpu")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if device.type == "cuda" and size > _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        try:
            from accelerate import cpu_offload
        except ImportError as error:
            raise ResourceError(
                f"the model takes {size / 1e9:.1f} GB, more than {device} has free: install accelerate (pip "
                "install accelerate) to move its layers as needed, or use --device cpu"
            ) from error
        cpu_offload(model, device)
        return device
    model.to(device)
    return device


def _call(model: Any, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    arguments: dict[str, Any] = {"input_ids": inputs, "attention_mask": mask.long()}
    if getattr(model.config, "is_encoder_decoder", False):
        start = getattr(model.config, "decoder_start_token_id", None) or 0
        shifted = torch.cat([torch.full_like(inputs[:, :1], start), inputs[:, :-1]], dim=1)
        model(**arguments, decoder_input_ids=shifted, decoder_attention_mask=mask.long(), use_cache=False)
        return None  # the decoder was given what it should predict: its loss would say nothing
    return _logits(model(**arguments, use_cache=False))


def _logits(output: Any) -> torch.Tensor | None:
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list) and output and isinstance(output[0], torch.Tensor):
        found = output[0]
    return found


def _loss(
    logits: torch.Tensor | None, inputs: torch.Tensor, mask: torch.Tensor, probe: Probe, rows: np.ndarray
) -> torch.Tensor | None:
    if logits is None or logits.ndim not in (2, 3):
        return None
    if probe.labels is not None:
        last = logits
        if logits.ndim == 3:
            last = logits[torch.arange(len(rows), device=logits.device), mask.sum(1) - 1]
        labels = torch.from_numpy(probe.labels[rows]).to(logits.device)
        if int(labels.max()) >= last.shape[-1]:
            raise Unmeasurable(
                f"the probe {probe.name} has label {int(labels.max())}, the model {last.shape[-1]} outputs"
            )
        return functional.cross_entropy(last.float(), labels, reduction="none")
    if not probe.tokens or logits.ndim != 3 or inputs.shape[1] < 2 or logits.shape[1] != inputs.shape[1]:
        return None
    if int(inputs.max()) >= logits.shape[-1]:
        return None  # its output is not over the vocabulary
    wanted = mask[:, 1:]
    each = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), inputs[:, 1:], reduction="none")
    return torch.where(wanted, each, 0).sum(1) / wanted.sum(1)
