"""Speed of pathways: distances against rapidfuzz alone, what recording adds to a forward pass, a series of checkpoints.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.pathways [distances] [routing] [series] [derive] [memory]

CPU seconds of one thread, all in one process, so that a busy machine changes little. Exits 1 where a bar is missed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import torch

from analyzers.contract import Context, Unit
from analyzers.models import Material
from analyzers.pathway_metrics import derivation
from analyzers.pathway_metrics.distances import PathwayDistances
from analyzers.pathway_metrics.edit_distance import _kernel_pairs, as_texts
from analyzers.pathway_metrics.forward import run_probe
from analyzers.pathway_metrics.pathways import pathways_of
from analyzers.pathway_metrics.probe import Probe, ProbeColumn
from analyzers.pathway_metrics.routing import Routing
from tests.analyzers.pathway_metrics.running import routing_of_trace

MATERIAL = Material("probe", "synthetic", "digest", "source")


def routed(samples: int, layers: int, experts: int, k: int, seed: int = 0) -> np.ndarray:
    """Mean routing weights (N, L, E) of random routers that each sample uses k experts of."""
    draw = np.random.default_rng(seed)
    weight = np.zeros((samples, layers, experts), dtype=np.float32)
    picked = np.argsort(draw.random((samples, layers, experts)), -1)[..., :k]
    np.put_along_axis(weight, picked, draw.dirichlet(np.ones(k), (samples, layers)).astype(np.float32), -1)
    return weight


def cpu(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def distances() -> bool:
    """4096 samples × 16 layers × 8 chosen experts (of 64), all pairs: ≤ 1.2 × cdist on the ready texts."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    weight = routed(4096, 16, 64, 8)
    statistic = PathwayDistances(MATERIAL, top_k=8)
    unit = Unit((), statistics={"routing": {"weight": weight}})
    pathways = pathways_of(weight, 0.7, top_k=8)
    texts = as_texts(pathways)
    ours = cpu(lambda: statistic.compute(unit, Context()))
    alone = cpu(lambda: cdist(texts, texts, scorer=Levenshtein.distance, dtype=np.uint16))
    print(f"4096 × 16 × 8, all pairs: {ours:.1f} s end to end, cdist alone {alone:.1f} s: {ours / alone:.2f} (bar 1.2)")
    left, right = np.random.default_rng(1).integers(0, 4096, (2, 20_000))
    kernel = cpu(lambda: _kernel_pairs(pathways, left, right, torch.device("cpu"))) / 20_000
    print(f"tensor kernel on the CPU: {1e6 * kernel:.1f} µs a pair; rapidfuzz {1e6 * alone / (4096 * 4095 / 2):.1f} µs")
    return ours <= 1.2 * alone


def routing() -> bool:
    """What recording adds to the forward pass of an OLMoE of 8 layers, 64 experts, 8 chosen, width 512: ≤ 10 %."""
    import transformers

    config = transformers.OlmoeConfig(
        vocab_size=2000, hidden_size=512, intermediate_size=256, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, num_experts=64, num_experts_per_tok=8, max_position_embeddings=256, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = np.random.default_rng(0).integers(3, 2000, (16, 128))
    probe = Probe("synthetic", ids, np.random.default_rng(1).integers(64, 129, 16), batch_size=8)
    statistic, device = Routing(MATERIAL), torch.device("cpu")

    def plain() -> None:
        run_probe(model, probe, device, lambda batch: None)

    def recorded() -> None:
        statistic.record(model, probe, device)

    plain(), recorded()
    times = [(cpu(plain), cpu(recorded)) for _ in range(5)]
    before, after = (min(pair[side] for pair in times) for side in (0, 1))
    print(
        f"forward pass {before:.2f} s, with recording {after:.2f} s: {100 * (after / before - 1):.1f} % more (bar 10)"
    )
    return after <= 1.1 * before


def series() -> bool:
    """40 checkpoints × 1000 samples at one threshold, 16 layers of 64 experts, 8 chosen: ≤ 60 s on 2 cores."""
    statistic = PathwayDistances(MATERIAL, threshold=0.7)
    units = [Unit((), statistics={"routing": {"weight": routed(1000, 16, 64, 8, seed)}}) for seed in range(40)]
    seconds = cpu(lambda: [statistic.compute(unit, Context()) for unit in units])
    length = pathways_of(units[0].statistics["routing"]["weight"], 0.7).lengths.mean()
    print(f"40 × 1000 samples, pathways of {length:.0f} tokens: {seconds:.1f} CPU s, {seconds / 2:.1f} s on 2 (bar 60)")
    return seconds <= 120


def derive() -> bool:
    """What `derive` does with a checkpoint of 1000 samples, 16 layers of 64 experts, at four thresholds and with four
    groupings (59 classes, 4 domains, 2 groups, 10 steps of memorisation): 40 of them in a minute."""
    draw = np.random.default_rng(0)
    weight = routed(1000, 16, 64, 8)
    index = np.argsort(draw.random((16_000, 16, 64)), -1)[..., :8]
    shares = draw.dirichlet(np.ones(8), (16_000, 16))
    trace = {
        "sample": np.repeat(np.arange(1000), 16), "index": index, "weight": shares, "token": draw.zipf(1.5, 16_000),
        "logits": draw.normal(size=(16_000, 16, 64)), "router": draw.normal(size=(16, 64, 512)),
    }  # fmt: skip
    columns = {
        name: ProbeColumn.of(draw.integers(0, kinds, 1000))
        for name, kinds in (("class", 59), ("domain", 4), ("group", 2))
    }
    stored = routing_of_trace(trace, Probe("synthetic", np.zeros((1000, 1)), np.ones(1000), False, columns=columns))
    unit = Unit((), statistics={"routing": {"weight": weight}})
    cuts = [PathwayDistances(MATERIAL, threshold=t).compute(unit, Context()) for t in (0.5, 0.6, 0.7, 0.8)]
    groups = {name: stored[f"{name}_codes"] for name in columns} | {"memorised": draw.integers(-1, 10, 1000)}
    of_routing = cpu(lambda: [derivation.of_routing(stored), derivation.of_last(stored, stored)])
    of_distances = cpu(lambda: [derivation.of_distances(cut, groups, 200) for cut in cuts])
    total = 40 * (of_routing + of_distances)
    print(
        f"derived from stored results, 40 × 1000 samples: {total:.0f} CPU s (a checkpoint: {of_distances:.2f} s for "
        f"four thresholds × four groupings, {of_routing:.2f} s for the rest)"
    )
    return total <= 60


def memory() -> bool:
    """A synthetic OLMoE of 0.8 GB in bfloat16, probed with room for 0.2 GB: what the process grows by."""
    import psutil
    import transformers

    from analyzers.models import ParameterInfo, WholeCheckpoint
    from pipeline.models.build import build_model

    config = transformers.OlmoeConfig(
        vocab_size=2000, hidden_size=1024, intermediate_size=512, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, num_experts=32, num_experts_per_tok=4, max_position_embeddings=256, pad_token_id=0,
        eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(p.shape) for name, p in empty.state_dict().items()}
    infos = tuple(ParameterInfo(name, shape, "bfloat16", name) for name, shape in shapes.items())

    def read(name: str) -> torch.Tensor:
        return torch.full(shapes[name], 0.02, dtype=torch.bfloat16)

    checkpoint = WholeCheckpoint("synthetic", 0, "key", config.to_dict(), infos, read)
    size = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    process = psutil.Process()
    before = process.memory_info().rss
    peak, ended = [before], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    limit = 200 * 10**6
    model = build_model(checkpoint, memory_bytes=limit)
    ids = np.random.default_rng(0).integers(3, 2000, (8, 64))
    result = Routing(MATERIAL).record(model, Probe("synthetic", ids, np.full(8, 64), batch_size=8), torch.device("cpu"))
    ended.set()
    watcher.join()
    grown = peak[0] - before
    print(
        f"{size / 1e9:.2f} GB of weights, {limit / 1e9:.1f} GB allowed: probed ({len(result['routers'])} routers) with "
        f"{grown / 1e9:.2f} GB more at the peak"
    )
    return grown < 0.75 * size


BENCHMARKS = {"distances": distances, "routing": routing, "series": series, "derive": derive, "memory": memory}

if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = sys.argv[1:] or list(BENCHMARKS)
    sys.exit(0 if all(BENCHMARKS[name]() for name in asked) else 1)
