"""How cost grows with the side of a matrix and with the number of checkpoints: CPU seconds, fitted exponents, a plot.

    python -m tests.benchmarks.growth [--most 8192] [--plot docs/images/growth.png] [--keep growth.json]

One thread. The base has σ_i = i^(−1/2) and singular vectors by Hadamard's matrix with random signs, so that they are
known exactly without a factorization (of 8192² it would take minutes). Reading is on no side. The checkpoints are those
of a synthetic run of six float32 matrices of 192², by the library route with every default analyzer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.rows import cpu, single_thread

if __name__ == "__main__":
    single_thread()

import numpy as np
import torch
from safetensors.torch import save_file

import pipeline
from analyzers.contract import LowRank, Sum
from analyzers.linalg import methods
from analyzers.linalg.hadamard import hadamard
from analyzers.linalg.kept_precision import precision
from analyzers.linalg.lowrank_update import top_vectors
from analyzers.linalg.scores import side_scores
from analyzers.linalg.spectra import singular_values
from analyzers.linalg.subspaces import BaseVectors

K = 10
RANK = 16
DRIFT = 0.1
"""‖Δ‖₂/‖W0‖₂ of the dense fine-tune."""
SPECTRA, ADAPTER, DENSE, RUN = "all σ of a float32 matrix", "intruders, rank-16 adapter", "intruders, dense", "a run"
CHECKPOINTS = (5, 10, 20, 40)


@dataclass(frozen=True)
class Point:
    """One measurement: `size` is the matrix' side, or the number of checkpoints."""

    work: str
    size: int
    seconds: float
    note: str = ""


def hadamard_base(side: int) -> tuple[torch.Tensor, BaseVectors]:
    """W0 = U diag(i^−1/2) Vᵀ in float32 and its vectors: Hadamard matrices, rows of random sign, over √n."""
    draw = torch.Generator().manual_seed(side)
    signs = [torch.randint(0, 2, (side,), generator=draw).float() * 2 - 1 for _ in range(2)]
    one = hadamard(side)
    sigma = torch.arange(1, side + 1, dtype=torch.float64) ** -0.5
    # (H diag(σ) H)_ij depends on i xor j alone
    row = (one.double() @ sigma / side).float()
    index = torch.arange(side)
    w0 = row[index[:, None] ^ index[None, :]] * signs[0][:, None] * signs[1][None, :]
    left, right = (one * (s / side**0.5)[:, None] for s in signs)
    return w0, BaseVectors(left, sigma, right, precision(2.0**-24, 2.0**-24))


def of_side(side: int) -> list[Point]:
    """The three kernels on one matrix."""
    w0, base = hadamard_base(side)
    repeat = 3 if side <= 2048 else 1
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn((side, side), generator=draw).mul_(DRIFT / (2 * side**0.5))
    # σ_p is n^−1/2: with less noise than that κ stays small, and the Gram serves, as for most trained matrices
    nearly = w0 + 0.02 * noise
    spectra, spectrum = cpu(lambda: singular_values(nearly), repeat)
    tuned = nearly.copy_(w0).add_(noise)
    del noise
    thin = torch.randn(side, RANK, generator=draw) * torch.linspace(1.0, 0.25, RANK)  # directions of unlike strength
    delta = LowRank(thin, torch.randn(RANK, side, generator=draw), 0.4 / side)

    def intruders(content: torch.Tensor | Sum) -> str:
        top = top_vectors(content, w0, base, K)
        error = max(float(side_scores(base, top, s).error.max()) for s in range(2))
        return f"{methods.NAMES[top.method]}, error ≤ {error:.0e}"

    adapter, how_adapter = cpu(lambda: intruders(Sum(w0, delta)), 3)
    dense, how_dense = cpu(lambda: intruders(tuned), repeat)
    return [
        Point(SPECTRA, side, spectra, spectrum.method),
        Point(ADAPTER, side, adapter, how_adapter),
        Point(DENSE, side, dense, how_dense),
    ]


def of_checkpoints(folder: Path, count: int) -> Point:
    """Ingest, compute and assemble of a run's first `count` checkpoints."""
    draw = torch.Generator().manual_seed(0)
    weights = {f"layers.{i}.q_proj.weight": torch.randn(192, 192, generator=draw) for i in range(6)}
    for step in range(1, count + 1):
        for weight in weights.values():
            weight += 0.02 * torch.randn(192, 192, generator=draw)
        at = folder / "runs" / f"checkpoint-{step}"
        at.mkdir(parents=True)
        save_file(weights, at / "model.safetensors")

    def work() -> int:
        store = pipeline.ingest(folder / "runs", folder / "S.zarr")
        measured = pipeline.compute(store, workers=1).measured
        pipeline.assemble(store)
        return measured

    seconds, units = cpu(work, 1)
    return Point(RUN, count, seconds, f"{units} units")


def exponent(points: Sequence[Point]) -> float:
    """Slope of log seconds over log size by least squares."""
    return float(np.polyfit(np.log([p.size for p in points]), np.log([p.seconds for p in points]), 1)[0])


def upper(points: Sequence[Point]) -> list[Point]:
    """What the exponent is fitted to: the three largest sizes."""
    ordered = sorted(points, key=lambda p: p.size)
    return ordered[-3:]


def draw(points: Sequence[Point], path: Path) -> None:
    """Two log-log panels with the fitted lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), constrained_layout=True)
    works = list(dict.fromkeys(p.work for p in points))
    for work, marker, colour in zip(works, "osD^", ("C0", "C2", "C3", "C4"), strict=False):
        axes = right if work == RUN else left
        own = sorted((p for p in points if p.work == work), key=lambda p: p.size)
        fitted = upper(own)
        slope = exponent(fitted)
        name = "checkpoints" if work == RUN else "n"
        axes.plot([p.size for p in own], [p.seconds for p in own], marker, color=colour, ms=6)
        at = np.array([fitted[0].size, fitted[-1].size], dtype=float)
        middle = np.exp(np.mean([np.log(p.seconds) - slope * np.log(p.size) for p in fitted]))
        axes.plot(at, middle * at**slope, color=colour, lw=1.5, label=f"{work}: {name}$^{{{slope:.2f}}}$")
    for axes, label in ((left, "side n of a square matrix"), (right, "checkpoints of a run")):
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="CPU seconds, one thread")
        sizes = sorted({p.size for p in points if (p.work == RUN) == (axes is right)})
        axes.set_xticks(sizes, [str(s) for s in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if axes is right else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measures, prints the table and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=8192)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    points: list[Point] = []
    for count in CHECKPOINTS:
        root = Path(tempfile.mkdtemp(prefix="varve-growth-"))
        points.append(of_checkpoints(root, count))
        shutil.rmtree(root)
        _say(points[-1:])
    side = 256
    while side <= given.most:
        found = of_side(side)
        points += found
        _say(found)
        side *= 2
    for work in dict.fromkeys(p.work for p in points):
        own = [p for p in points if p.work == work]
        cells = ", ".join(f"{p.size}: {p.seconds:.3g}" for p in own)
        print(f"{work}: {cells}; exponent {exponent(upper(own)):.2f}")
    if given.keep:
        given.keep.write_text(json.dumps([p.__dict__ for p in points], indent=1) + "\n", encoding="utf-8")
    if given.plot:
        draw(points, given.plot)


def _say(points: Sequence[Point]) -> None:
    for p in points:
        print(f"{p.work}, {p.size}: {p.seconds:.3g} CPU s ({p.note})", flush=True)


if __name__ == "__main__":
    main()
