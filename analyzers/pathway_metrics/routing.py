"""The statistic `routing`: what every router of a checkpoint did with a probe; all metrics of experts follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from analyzers.contract import Context, Cost, MatrixInfo, Result, Statistic, Unit
from analyzers.errors import Unmeasurable, VarveError
from analyzers.models import Material
from analyzers.pathway_metrics.forward import ProbeBatch, check_probe, run_probe, without_place
from analyzers.pathway_metrics.probe import COLUMNS, Probe, Trace
from analyzers.pathway_metrics.routers import Router, find_routers, read_choice
from analyzers.pathway_metrics.sums import LayerSums
from analyzers.pathway_metrics.traces import check_trace, sums_of
from analyzers.pathway_metrics.vocabulary import vocabulary_counts

LARGEST = 48 * 2**20
"""Bytes of one stored field; the store takes 64 MiB."""

Matrices = Sequence[torch.Tensor | None]


@dataclass(frozen=True)
class Routing(Statistic):
    """Routing of a probe of N samples through L routers of at most E experts each, k chosen for every token.

    Fields: `routers` (L,) names; `experts`, `chosen` (L,) int64; `tokens` (N, L) uint32, those that each router saw;
    `weight` (N, L, E) float32, the mean over a sample's tokens of the weight with which an expert's output was
    multiplied (0 where it was not chosen); `selected` (N, L, E) counts of tokens; `together` (L, E, E) tokens for which
    both experts were chosen; `z_loss` (L,) mean logsumexp² of the logits; `gram` (L, E, E) and `cross` (L−1, E, E)
    float64, products of the router matrices' rows with their own and with the next router's (NaN where a router has no
    matrix, or widths differ); `loss` (N,); `selection` (S, L, k) int16, the experts of S tokens spread evenly over the
    probe, −1 for a choice that came to nothing; of the token ids seen at least 10 times `vocabulary` (V,) and
    `vocabulary_seen` (V,), and as a sparse table over them `vocabulary_at` (M,) uint32, the position in (V, L, E), and
    `vocabulary_count` (M,) uint32, how many of the id's occurrences chose the expert (V: as many of the most frequent
    as `vocabulary_entries` hold, of `vocabulary_frequent` there are); and for each column of the probe
    `<column>_codes` (N,) and `<column>_names`. Padding counts nowhere; padded experts are 0.

    Raises `Unmeasurable` for a dense model, a probe that does not fit, and a model that cannot be built.
    """

    name: ClassVar[str] = "routing"
    version: ClassVar[int] = 2
    scope: ClassVar[Any] = "checkpoint"
    reads_matrices: ClassVar[bool] = False
    reads_models: ClassVar[bool] = True

    probe: Material
    model: str | None = None
    selection_tokens: int = 16384
    vocabulary_entries: int = 2**18

    def cost(self, infos: Sequence[MatrixInfo]) -> Cost:
        """A guess: what a probe takes follows from data that are not read here."""
        return Cost(seconds=5.0, memory_bytes=2 * 10**9)

    def compute(self, unit: Unit, context: Context) -> Result:
        """Runs the probe with a hook on every router, or takes the sums from a recorded trace."""
        checkpoint = unit.only.checkpoint
        if checkpoint is None:
            raise Unmeasurable("routing needs a whole checkpoint")
        probe: Probe = context.models.open(self.probe)
        if probe.traces is not None:
            trace = probe.traces(checkpoint.run, checkpoint.step)
            if trace is None:
                raise Unmeasurable(f"the probe {probe.name} has no trace of this checkpoint")
            try:
                check_trace(trace, len(probe))
            except Unmeasurable as reason:
                where = f"{checkpoint.run}@{checkpoint.step}"
                raise Unmeasurable(f"the trace of {where} in the probe {probe.name}: {reason}") from reason
            return self._of_trace(trace, probe)
        try:
            return self.record(context.models.build(checkpoint, self.model), probe, context.device)
        except VarveError as error:
            raise without_place(error, checkpoint) from error

    def record(self, model: torch.nn.Module, probe: Probe, device: torch.device) -> Result:
        """The fields for a model in memory, for notebooks too. Raises `Unmeasurable` as `compute` does."""
        routers = find_routers(model)
        if not routers:
            raise Unmeasurable(
                f"{type(model).__name__} has no routers: it is dense, and has no expert pathways; "
                "--set pathway_metrics.kind=neurons measures those of its MLP neurons"
            )
        check_probe(model, probe)
        sums: dict[str, LayerSums] = {}
        current: list[ProbeBatch] = []

        def begin(batch: ProbeBatch) -> None:
            current[:] = [batch]

        handles = [
            router.module.register_forward_hook(_hook(router, sums, current, len(probe), probe.tokens))
            for router in routers
        ]
        try:
            losses = run_probe(model, probe, device, begin)
        finally:
            for handle in handles:
                handle.remove()
        by_name = {router.name: router for router in routers}
        seen = [by_name[name] for name in sums]  # in the order in which the forward pass came to them
        if not seen:
            raise Unmeasurable(f"none of the model's {len(routers)} routers was called: {routers[0].name}, …")
        tokens = _tokens_in_order(probe) if probe.tokens else None
        return self._result(
            [router.name for router in seen],
            [sums[router.name] for router in seen],
            [router.matrix for router in seen],
            losses,
            tokens,
            probe,
        )

    def _of_trace(self, trace: Trace, probe: Probe) -> Result:
        sums = sums_of(trace, len(probe))
        names = [str(n) for n in trace["names"]] if "names" in trace else [f"router {i}" for i in range(len(sums))]
        matrices: Matrices = [None] * len(sums)
        if "router" in trace:
            matrices = [torch.from_numpy(np.asarray(m, dtype=np.float64)) for m in trace["router"]]
        losses = np.asarray(trace.get("loss", np.full(len(probe), np.nan)), dtype=np.float32)
        return self._result(names, sums, matrices, losses, trace.get("token"), probe)

    def _result(
        self,
        names: Sequence[str],
        sums: Sequence[LayerSums],
        matrices: Matrices,
        losses: np.ndarray,
        tokens: np.ndarray | None,
        probe: Probe,
    ) -> Result:
        count, layers, most = len(probe), len(sums), max(one.experts for one in sums)
        if 4 * count * layers * most > LARGEST:
            raise Unmeasurable(
                f"{count} samples × {layers} routers × {most} experts are too many to store: give a probe of at most "
                f"{LARGEST // (4 * layers * most)} samples"
            )
        weight = np.zeros((count, layers, most), dtype=np.float32)
        selected = np.zeros((count, layers, most), dtype=np.uint32)
        together = np.zeros((layers, most, most), dtype=np.int64)
        for at, one in enumerate(sums):
            weight[:, at, : one.experts] = (one.weight / one.per_sample.clamp(min=1).unsqueeze(1)).cpu().numpy()
            selected[:, at, : one.experts] = one.selected.cpu().numpy()
            together[at, : one.experts, : one.experts] = one.together.cpu().numpy()
        rows = _spread(sums[0].tokens, self.selection_tokens)
        widest = max(one.chosen for one in sums)
        selection = np.full((len(rows), layers, widest), -1, dtype=np.int16)
        for at, one in enumerate(sums):
            if one.tokens == sums[0].tokens:
                chosen = one.selection(rows)
                selection[:, at, : chosen.shape[1]] = chosen
        gram, cross = _products(matrices, most)
        result = {
            "routers": np.array(names),
            "experts": np.array([one.experts for one in sums]),
            "chosen": np.array([one.chosen for one in sums]),
            "tokens": np.stack([one.per_sample.cpu().numpy() for one in sums], axis=1).astype(np.uint32),
            "weight": weight,
            "selected": selected,
            "together": together,
            "z_loss": np.array([float(one.squared_logsumexp) / max(1, one.tokens) for one in sums]),
            "gram": gram,
            "cross": cross,
            "loss": losses,
            "selection": selection,
        }
        result |= vocabulary_counts(sums, tokens, most, self.vocabulary_entries)
        for name in COLUMNS:
            if name in probe.columns:
                column = probe.columns[name]
                result[f"{name}_codes"] = column.codes
                result[f"{name}_names"] = np.array(column.names)
        return result


def _hook(
    router: Router, sums: dict[str, LayerSums], current: list[ProbeBatch], samples: int, of_tokens: bool
) -> Callable[..., None]:
    def record(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        choice = read_choice(output, router.name)
        batch, device = current[0], choice.index.device
        tokens, times = len(choice.index), len(choice.index) // max(1, len(batch.sample))
        if tokens != times * len(batch.sample) or (times != 1 and of_tokens):
            raise Unmeasurable(f"the router {router.name} chose for {tokens} tokens, the batch has {len(batch.sample)}")
        if router.name not in sums:
            sums[router.name] = LayerSums(samples, choice.logits.shape[-1], device)
        keep = None if batch.keep is None else batch.keep.to(device)
        # A model of images or the like cuts a sample into tokens itself, each sample into as many.
        sums[router.name].add(choice, batch.sample.to(device).repeat_interleave(times), keep)

    return record


def _tokens_in_order(probe: Probe) -> np.ndarray:
    """(T,) ids of all real tokens in the order in which batches bring them."""
    order = np.concatenate(list(probe.batches()))
    real = np.arange(probe.inputs.shape[1]) < probe.lengths[order, None]
    return np.asarray(probe.inputs[order][real])


def _spread(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` tokens, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _products(matrices: Matrices, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Inner products of router rows: within each router (L, E, E), and with the next one's (L−1, E, E)."""
    layers = len(matrices)
    gram = np.full((layers, most, most), np.nan)
    cross = np.full((max(0, layers - 1), most, most), np.nan)
    dense = [None if m is None else m.detach().double().cpu().numpy() for m in matrices]
    for at, one in enumerate(dense):
        if one is None:
            continue
        gram[at, : len(one), : len(one)] = one @ one.T
        after = dense[at + 1] if at + 1 < layers else None
        if after is not None and after.shape[1] == one.shape[1]:
            cross[at, : len(one), : len(after)] = one @ after.T
    return gram, cross
