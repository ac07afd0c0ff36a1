"""Pathways of dense models, by a definition of our own: per layer, the MLP neurons of greatest mean |activation|.

There is no agreed definition, and a neuron is no expert: every one is computed for every token. Read such distances
only beside each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import Unmeasurable, VarveError
from analyzers.models import Material
from analyzers.pathway_metrics.forward import ProbeBatch, check_probe, run_probe, without_place
from analyzers.pathway_metrics.pathways import Pathways
from analyzers.pathway_metrics.probe import COLUMNS, Probe

STORED = 64
"""Neurons kept of each layer."""
_DOWN = re.compile(
    r"(^|\.)(down_proj|fc2|c_proj|wo|dense_4h_to_h|fc_out|lin2|w2|output\.dense)$", re.IGNORECASE
)  # the maps that read a layer's activations, by the families' names
_NOT_MLP = re.compile(r"attn|attention|crossattention", re.IGNORECASE)


@dataclass(frozen=True)
class Neurons(Statistic):
    """The most active MLP neurons of a probe's N samples in each of L layers: the inputs of the layer's second map.

    Fields: `layers` (L,) names; `neurons` (N, L, K) int32 by descending mean |activation| over the sample's tokens,
    ties by id, K ≤ 64; `activity` (N, L, K) float32; `tokens` (N,); `loss` (N,); columns as in `Routing`.
    `modules`: a glob on module names, where the second maps are not found by the families' names.
    """

    name: ClassVar[str] = "neurons"
    version: ClassVar[int] = 1
    scope: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False
    reads_models: ClassVar[bool] = True

    probe: Material
    model: str | None = None
    modules: str | None = None

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A guess: what a probe takes follows from data that are not read here."""
        return Cost(seconds=5.0, memory_bytes=2 * 10**9)

    def compute(self, unit: Unit, context: Context) -> Result:
        """Runs the probe with a hook on every second map. Raises `Unmeasurable` where none is found."""
        checkpoint = unit.only.checkpoint
        if checkpoint is None:
            raise Unmeasurable("neurons need a whole checkpoint")
        probe: Probe = context.models.open(self.probe)
        if probe.traces is not None:
            raise Unmeasurable(f"the probe {probe.name} holds recorded routing: there are no neurons in it")
        try:
            model = context.models.build(checkpoint, self.model)
        except VarveError as error:
            raise without_place(error, checkpoint) from error
        found = second_maps(model, self.modules)
        if not found:
            raise Unmeasurable(
                f"{type(model).__name__} has no module "
                + (f"that matches {self.modules!r}" if self.modules else "named like an MLP's second map")
                + "; name them: --set pathway_metrics.modules='layers.*.mlp.down_proj'"
            )
        check_probe(model, probe)
        sums: dict[str, torch.Tensor] = {}
        current: list[ProbeBatch] = []
        handles = [
            module.register_forward_pre_hook(_hook(name, sums, current, len(probe))) for name, module in found.items()
        ]
        try:
            losses = run_probe(model, probe, context.device, lambda batch: current.__setitem__(slice(None), [batch]))
        finally:
            for handle in handles:
                handle.remove()
        kept = min(STORED, *(total.shape[1] for total in sums.values()))
        counts = np.maximum(probe.lengths if probe.tokens else np.ones(len(probe)), 1)
        neurons = np.zeros((len(probe), len(sums), kept), dtype=np.int32)
        activity = np.zeros((len(probe), len(sums), kept), dtype=np.float32)
        for at, total in enumerate(sums.values()):
            mean = total.cpu().numpy() / counts[:, None]
            order = np.argsort(-mean, axis=1, kind="stable")[:, :kept]
            neurons[:, at], activity[:, at] = order, np.take_along_axis(mean, order, 1)
        result = {
            "layers": np.array(list(sums)),
            "neurons": neurons,
            "activity": activity,
            "tokens": np.asarray(counts, dtype=np.int64),
            "loss": losses,
        }
        for name in COLUMNS:
            if name in probe.columns:
                result[f"{name}_codes"] = probe.columns[name].codes
                result[f"{name}_names"] = np.array(probe.columns[name].names)
        return result


def second_maps(model: torch.nn.Module, modules: str | None) -> dict[str, torch.nn.Module]:
    """The linear maps that read an MLP's activations, by name; or those that the glob `modules` matches."""
    named = dict(model.named_modules())
    if modules is not None:
        return {name: module for name, module in named.items() if name and fnmatchcase(name, modules)}
    return {
        name: module
        for name, module in named.items()
        if _DOWN.search(name) and not _NOT_MLP.search(name) and any(p.ndim == 2 for p in module.parameters(False))
    }


def neuron_pathways(stored: Result, top_k: int) -> Pathways:
    """The pathways of the first `top_k` neurons of each layer; a token is (layer, neuron)."""
    neurons = stored["neurons"][:, :, :top_k].astype(np.int64)
    samples, layers, kept = neurons.shape
    widest = int(stored["neurons"].max()) + 1
    tokens = (neurons + np.arange(layers)[:, None] * widest).reshape(samples, layers * kept)
    return Pathways(tokens.astype(np.int32), np.full(samples, layers * kept, dtype=np.int64))


def _hook(
    name: str, sums: dict[str, torch.Tensor], current: list[ProbeBatch], samples: int
) -> Callable[[torch.nn.Module, Any], None]:
    def record(module: torch.nn.Module, arguments: Any) -> None:
        batch, values = current[0], arguments[0]
        flat = values.reshape(-1, values.shape[-1]).abs().double()
        sample, keep = batch.sample.to(flat.device), batch.keep
        if len(flat) != len(sample):
            raise Unmeasurable(f"{name} read {len(flat)} rows, the batch has {len(sample)} tokens")
        if keep is not None:
            flat, sample = flat[keep.to(flat.device)], sample[keep.to(flat.device)]
        if name not in sums:
            sums[name] = torch.zeros(samples, flat.shape[1], dtype=torch.float64, device=flat.device)
        sums[name].index_add_(0, sample, flat)

    return record
