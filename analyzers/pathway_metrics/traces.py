"""Recorded routing, for models that cannot be run here: the fields of a trace, and the sums taken from them.

One `.npz` per checkpoint, T tokens of the probe's N samples, L routers, E experts, k chosen ones:

    sample   (T,)       int    the sample of each token, 0 … N−1; no padding
    index    (T, L, k)  int    the experts that were chosen
    weight   (T, L, k)  float  the weights with which their outputs were multiplied; 0 where a choice came to nothing
    logits   (T, L, E)  float  optional: the router's logits (z-loss)
    router   (L, E, d)  float  optional: the router matrices (consistency)
    experts  ()         int    optional: E, when `logits` is absent and not every expert was chosen
    loss     (N,)       float  optional: the loss per sample
    token    (T,)       int    optional: token ids (vocabulary specialisation)
    names    (L,)       str    optional: the routers' names
"""

from __future__ import annotations

import numpy as np
import torch

from analyzers.errors import Unmeasurable
from analyzers.pathway_metrics.probe import Trace
from analyzers.pathway_metrics.routers import Choice
from analyzers.pathway_metrics.sums import LayerSums


def check_trace(trace: Trace, samples: int) -> None:
    """Raises `Unmeasurable` naming the field that is missing or does not fit."""
    missing = [name for name in ("sample", "index", "weight") if name not in trace]
    if missing:
        raise Unmeasurable(f"the trace has no {', '.join(missing)}; it has {', '.join(sorted(trace)) or 'none'}")
    sample, index, weight = trace["sample"], trace["index"], trace["weight"]
    tokens = len(sample)
    if index.ndim != 3 or index.shape != weight.shape or len(index) != tokens or index.dtype.kind not in "iu":
        raise Unmeasurable(
            f"sample (T,), index and weight (T, L, k) do not fit: {sample.shape}, {index.shape} "
            f"{index.dtype}, {weight.shape}"
        )
    if tokens == 0 or sample.dtype.kind not in "iu" or sample.min() < 0 or sample.max() >= samples:
        raise Unmeasurable(f"sample must number the probe's {samples} samples from 0; tokens: {tokens}")
    experts = experts_of(trace)
    if index.min() < 0 or index.max() >= experts:
        raise Unmeasurable(f"index runs from {index.min()} to {index.max()}, but there are {experts} experts")
    ordered = np.sort(index, axis=-1)
    if (twice := np.argwhere(ordered[..., 1:] == ordered[..., :-1])).size:
        token, layer, at = twice[0]
        raise Unmeasurable(f"token {token} chose expert {ordered[token, layer, at]} of router {layer} twice")
    if not (weight >= 0).all() or not np.isfinite(weight).all():
        raise Unmeasurable(f"weights must be finite and not negative, but run from {weight.min()} to {weight.max()}")
    if "logits" in trace and trace["logits"].shape != (*index.shape[:2], experts):
        raise Unmeasurable(f"logits have shape {trace['logits'].shape}, not {(*index.shape[:2], experts)}")
    if "loss" in trace and trace["loss"].shape != (samples,):
        raise Unmeasurable(f"loss has shape {trace['loss'].shape}, not {(samples,)}")


def experts_of(trace: Trace) -> int:
    """E, as the trace tells it."""
    if "logits" in trace:
        return int(trace["logits"].shape[-1])
    if "router" in trace:
        return int(trace["router"].shape[1])
    return int(trace["experts"]) if "experts" in trace else int(trace["index"].max()) + 1


def sums_of(trace: Trace, samples: int) -> list[LayerSums]:
    """The sums of every router of a checked trace."""
    experts, device = experts_of(trace), torch.device("cpu")
    sample = torch.from_numpy(np.asarray(trace["sample"], dtype=np.int64))
    every = []
    for layer in range(trace["index"].shape[1]):
        index = torch.from_numpy(np.asarray(trace["index"][:, layer], dtype=np.int64))
        weight = torch.from_numpy(np.asarray(trace["weight"][:, layer], dtype=np.float32))
        logits = torch.full((len(index), experts), torch.nan)
        if "logits" in trace:
            logits = torch.from_numpy(np.asarray(trace["logits"][:, layer], dtype=np.float32))
        sums = LayerSums(samples, experts, device)
        sums.add(Choice(logits, index, weight), sample, None)
        every.append(sums)
    return every
