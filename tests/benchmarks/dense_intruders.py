"""Intruders of a dense fine-tune with the base known, against one LAPACK SVD of the tuned matrix: CPU seconds.

    python -m tests.benchmarks.dense_intruders [--side 4096]

One thread, one process, one run; reading is on neither side. `sharp` has a power law's spectrum, as trained matrices
do, `flat` a Gaussian matrix's, where the leading σ lie closest together. The SVD is LAPACK's, as torch calls it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from analyzers.linalg import methods
from analyzers.linalg.lowrank_update import top_vectors
from analyzers.linalg.norm_bound import MISS_PROBABILITY
from analyzers.linalg.scores import side_scores
from analyzers.linalg.subspaces import BaseVectors, base_vectors

K = 10
T = TypeVar("T")


def make_base(kind: str, side: int) -> torch.Tensor:
    """W0 (side, side) float32: Gaussian, or one with σ_i ∝ i^-0.4 on top of it."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn((side, side), generator=generator)
    if kind == "flat":
        return w
    rank = min(side, 256)
    left, right = (torch.linalg.qr(torch.randn((side, rank), generator=generator)).Q for _ in range(2))
    sigma = 8.0 * side**0.5 * torch.arange(1, rank + 1) ** -0.4
    return w + (left * sigma) @ right.T


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives, and the CPU seconds of this process that it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def intruders(w: torch.Tensor, w0: torch.Tensor, base: BaseVectors) -> tuple[torch.Tensor, float, int]:
    """Scores (2, K), their greatest error, the method's code."""
    top = top_vectors(w, w0, base, K)
    sides = [side_scores(base, top, side) for side in range(2)]
    return torch.stack([s.similarity for s in sides]), max(float(s.error.max()) for s in sides), top.method


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    side = parser.parse_args().side
    torch.set_num_threads(1)
    print(f"{side} × {side} float32, top {K}, one thread; miss probability {MISS_PROBABILITY:g} per matrix")
    reference: float | None = None
    for kind in ("sharp", "flat"):
        w0 = make_base(kind, side)
        base = base_vectors(w0)
        for drift in (0.01, 0.05):
            w = w0 + drift * torch.randn((side, side), generator=torch.Generator().manual_seed(1))
            (scores, error, method), ours = timed(lambda w=w, w0=w0, base=base: intruders(w, w0, base))
            line = f"{kind:6} drift {drift:4}: {ours:7.2f} CPU s by {methods.NAMES[method]}, score error ≤ {error:.0e}"
            if reference is None:
                (u, _, vh), reference = timed(lambda w=w: torch.linalg.svd(w, full_matrices=False))
                exact = [base.left.T @ u[:, :K], base.right.T @ vh[:K].T]
                moved = max(float((e.abs().amax(0) - s).abs().max()) for e, s in zip(exact, scores, strict=True))
                print(f"one SVD: {reference:.1f} CPU s; scores differ from it by {moved:.0e}", flush=True)
                del u, vh
            print(f"{line}, {reference / ours:.0f} × one SVD", flush=True)


if __name__ == "__main__":
    main()
