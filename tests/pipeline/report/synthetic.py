"""Report trees made of synthetic numbers, in the form that `assemble` gives them, for tests that need no store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

KINDS = ("q", "k", "v", "o", "up", "down")
EPSILONS = (0.3, 0.5, 0.7, 0.9)
TOP = 10


def _name(index: int) -> str:
    return f"encoder.layer.{index // len(KINDS)}.{KINDS[index % len(KINDS)]}"


def _variable(dims: Sequence[str], values: np.ndarray, long_name: str, key: int = 0, log: int = 0) -> xr.Variable:
    attrs = {"long_name": long_name, "units": "1", "source": "synthetic", "key": key, "log": log}
    return xr.Variable(tuple(dims), values, attrs)


def coordinates(runs: Sequence[str], steps: Sequence[int], matrices: int) -> dict[str, object]:
    """run, step, matrix and the matrices' coordinates, as `View.dataset` makes them; the last matrix has no layer."""
    layers = np.array([i // len(KINDS) for i in range(matrices)], dtype=float)
    names, kinds = [_name(i) for i in range(matrices)], [KINDS[i % len(KINDS)] for i in range(matrices)]
    if matrices > 1:
        layers[-1], names[-1], kinds[-1] = np.nan, "embeddings.word", "embedding"
    return {
        "run": ("run", np.array(runs, dtype=object)),
        "step": ("step", np.asarray(steps, dtype=np.int64)),
        "matrix": ("matrix", np.array(names, dtype=object)),
        "layer": ("matrix", layers),
        "kind": ("matrix", np.array(kinds, dtype=object)),
        "role": ("matrix", np.array(["weight"] * matrices, dtype=object)),
    }


def weight_spectra(
    runs: Sequence[str], steps: Sequence[int], matrices: int, seed: int = 0
) -> tuple[xr.Dataset, dict[str, xr.Dataset]]:
    """Scalars over (run, step, matrix), and the σ of each run; every second run skips every second step."""
    rng = np.random.default_rng(seed)
    shape = (len(runs), len(steps), matrices)
    progress = np.linspace(0, 1, len(steps))[None, :, None]
    speed = np.linspace(0.2, 1.0, len(runs))[:, None, None]
    depth = np.linspace(0.5, 1.5, matrices)[None, None, :]
    stable = 40 * depth * np.exp(-speed * progress) * rng.lognormal(0, 0.02, shape)
    frobenius = 20 * depth * (1 + 0.3 * speed * progress) * rng.lognormal(0, 0.01, shape)
    values = {
        "spectral_norm": _variable(
            ("run", "step", "matrix"), frobenius / np.sqrt(stable), "largest singular value", 1, 1
        ),
        "frobenius_norm": _variable(("run", "step", "matrix"), frobenius, "Frobenius norm"),
        "stable_rank": _variable(("run", "step", "matrix"), stable, "stable rank", 1),
        "effective_rank": _variable(("run", "step", "matrix"), 4 * stable, "effective rank", 1),
        "alpha": _variable(("run", "step", "matrix"), 3.5 + rng.normal(0, 0.4, shape) - speed * progress, "α", 1),
        "energy_rank": _variable(
            ("run", "step", "matrix", "energy"),
            np.round(stable[..., None] * np.array([1, 3, 4, 6])),
            "least rank holding the share of energy",
        ),
    }
    unmeasured = np.zeros(shape, bool)
    unmeasured[1::2, 1:-1:2] = True
    for name, variable in values.items():
        mask = unmeasured if variable.ndim == 3 else unmeasured[..., None]
        values[name] = variable.copy(data=np.where(mask, np.nan, variable.values))
    values["measured"] = xr.Variable(("run", "step", "matrix"), ~unmeasured, {"long_name": "measured", "units": "1"})
    dataset = xr.Dataset(values, coordinates(runs, steps, matrices))
    dataset = dataset.assign_coords(energy=[0.5, 0.9, 0.95, 0.99])
    rank = np.arange(64)
    spectra = {
        run: xr.Dataset(
            {
                "sigma": _variable(
                    ("step", "matrix", "rank"),
                    np.exp(-rank / (8 + 4 * np.arange(matrices)[None, :, None] / matrices))
                    * (1 + progress[0, :, None] * (rank < 4) * speed[i, 0, 0]),
                    "singular values",
                )
            },
            {**{k: v for k, v in coordinates(runs, steps, matrices).items() if k != "run"}, "rank": rank + 1},
        )
        for i, run in enumerate(runs)
    }
    return dataset, spectra


def tests(runs: int, matrices: int) -> dict[str, xr.Variable]:
    """The p of each run's sweep: the first is more than chance, the others are not told from it."""
    p = np.tile([[0.4, 0.7]], (runs, 1))
    p[0] = [0.0025, 1.0]
    values = {"p": p, "p_low": 0.8 * p, "p_high": np.minimum(1.2 * p, 1), "p_corrected": np.minimum(2 * runs * p, 1)}
    values["p_sure"] = p
    of_runs = {"draws": np.where(p[:, 0] < 0.05, 400.0, 20.0), "tested": np.full(runs, float(matrices))}
    return {
        f"total_intruders_{name}": _variable(("run", "direction")[: array.ndim], array, f"{name} of the sweep")
        for name, array in (values | of_runs).items()
    }


def intruder_dimensions(runs: Sequence[str], steps: Sequence[int], matrices: int, seed: int = 0) -> xr.Dataset:
    """Counts with their null, interval, excess and matched counts, over (run, step, matrix, side, k, epsilon)."""
    rng = np.random.default_rng(seed)
    dims = ("run", "step", "matrix", "side", "k", "epsilon")
    totalled = ("run", "step", "side", "k", "epsilon")
    ks = (1, 5, 10)
    shape = (len(runs), len(steps), matrices, 2, len(ks), len(EPSILONS))
    progress = np.linspace(0, 1, len(steps)).reshape(1, -1, 1, 1, 1, 1)
    epsilon = np.array(EPSILONS).reshape(1, 1, 1, 1, 1, -1)
    k = np.array(ks).reshape(1, 1, 1, 1, -1, 1)
    rate = progress * epsilon**3 * k * np.linspace(0.02, 0.4, len(runs)).reshape(-1, 1, 1, 1, 1, 1)
    count = np.minimum(rng.poisson(np.broadcast_to(rate, shape)), k).astype(float)
    null = np.broadcast_to(0.6 * rate, shape)
    change = (
        0.1
        * progress[..., 0, 0, 0]
        * np.linspace(0.1, 1, len(runs))[:, None, None]
        * rng.lognormal(0, 0.4, (len(runs), len(steps), matrices))
    )
    dataset = xr.Dataset(
        {
            "n_intruders": _variable(dims, count, "intruder dimensions", 1),
            "n_intruders_null": _variable(dims, null.copy(), "intruder dimensions of random updates, mean"),
            "n_intruders_null_low": _variable(dims, np.maximum(null - 0.5, 0), "2.5 % of the null"),
            "n_intruders_null_high": _variable(dims, null + 0.8, "97.5 % of the null"),
            "total_intruders_null": _variable(totalled, null.sum(axis=2), "null of the sum, mean"),
            "total_intruders_null_low": _variable(totalled, np.maximum(null.sum(axis=2) - 2, 0), "2.5 % of it"),
            "total_intruders_null_high": _variable(totalled, null.sum(axis=2) + 3, "97.5 % of it"),
            "excess_intruders": _variable(dims, count - null, "intruder dimensions above the null", 1),
            "n_intruders_low": _variable(dims, np.maximum(count - 1, 0), "surely below ε"),
            "n_intruders_high": _variable(dims, count, "perhaps below ε"),
            "n_intruders_matched": _variable(
                ("run", "matched_to", *dims[2:]),
                np.repeat(np.floor(0.8 * count[:, -1:]), 2, axis=1),
                "intruder dimensions at matched norm",
            ),
            **tests(len(runs), matrices),
            "relative_change": _variable(dims[:3], change, "‖Δ‖/‖W0‖", 1, 1),
            "chance_similarity": _variable(("matrix", "side"), np.full((matrices, 2), 0.163), "of a random vector"),
        },
        coordinates(runs, steps, matrices),
        {"notes": "run base is merely the run's own first step: <b>flagged</b>"},
    )
    dataset = dataset.assign_coords(direction=("direction", np.array(["more", "fewer"], object)))
    dataset = dataset.assign_coords(matched_to=("matched_to", np.array([runs[0], "geometric_mean"], object)))
    return dataset.assign_coords(side=("side", np.array(["left", "right"], object)), k=list(ks), epsilon=list(EPSILONS))


def metrics(runs: Sequence[str], steps: Sequence[int]) -> xr.Dataset:
    """A falling loss and a sparse accuracy."""
    progress = np.linspace(0, 1, len(steps))
    loss = np.stack([2 * np.exp(-(1 + i) * progress) + 0.1 for i in range(len(runs))])
    accuracy = np.where(np.arange(len(steps)) % 2 == 0, 1 - loss / 3, np.nan)
    return logged({"loss": loss, "eval_accuracy": accuracy}, runs, steps)


def logged(metrics: Mapping[str, np.ndarray], runs: Sequence[str], steps: Sequence[int]) -> xr.Dataset:
    """The node /metrics with the (run, step) values of some metrics."""
    return xr.Dataset(
        {"value": _variable(("metric", "run", "step"), np.stack(list(metrics.values())), "what the training logged")},
        {
            "metric": ("metric", np.array(list(metrics), dtype=object)),
            "run": ("run", np.array(runs, dtype=object)),
            "step": np.asarray(steps, dtype=np.int64),
            "source": ("metric", np.array(["log.csv"] * len(metrics), dtype=object)),
        },
    )


def archive(runs: Sequence[str], steps: Sequence[int], matrices: int) -> dict[str, xr.Dataset]:
    """The nodes under /archive and /provenance, in the form that `pipeline.report.archive_tables` makes."""
    from pipeline.report.tables import table

    names = [_name(i) for i in range(matrices)]
    entries = [(run, name) for run in runs for name in names]
    return {
        "/archive/runs": table(
            "entry",
            {
                "run": list(runs),
                "role": ["run"] * len(runs),
                "kind": ["adapter" if "lora" in r else "full" for r in runs],
                "checkpoints": [len(steps)] * len(runs),
                "first_step": [steps[0]] * len(runs),
                "last_step": [steps[-1]] * len(runs),
                "formats": ["safetensors"] * len(runs),
                "base": [f"{runs[0]}@{steps[0]}"] * len(runs),
                "base_kind": ["first_step" if i == 0 else "given" for i in range(len(runs))],
                "source": [f"runs/{r}" for r in runs],
            },
        ),
        "/archive/parameters": table(
            "entry",
            {
                "run": [run for run, _ in entries],
                "matrix": [name for _, name in entries],
                "tensors": [f"{name}.weight" for _, name in entries],
                "orientation": ["out_in"] * len(entries),
                "role": ["weight"] * len(entries),
                "rows": [384] * len(entries),
                "columns": [384] * len(entries),
            },
        ),
        "/archive/unmeasured": table(
            "entry",
            {
                "run": [run for run in runs for _ in range(3)],
                "tensor": ["norm.weight", "norm.bias", "position_ids"] * len(runs),
                "reason": ["one-dimensional", "one-dimensional", "integers"] * len(runs),
                "checkpoints": [len(steps)] * (3 * len(runs)),
            },
        ),
        "/archive/problems": table(
            "entry",
            {
                "path": [f"{runs[-1]}/checkpoint-99/model.safetensors"],
                "tensor": [""],
                "reason": ["truncated: the header says 90.9 MB, the file has 12.1 MB"],
                "hint": ["copy the file again"],
            },
        ),
        "/archive/failures": table(
            "entry",
            {
                "statistic": ["spectrum"],
                "run": [runs[0]],
                "step": [steps[-1]],
                "matrix": [names[0]],
                "error": ["LinAlgError: the algorithm did not converge"],
            },
        ),
        "/provenance": table(
            "checkpoint",
            {
                "run": [run for run in runs for _ in steps],
                "step": [step for _ in runs for step in steps],
                "digest": ["0123456789abcdef" for _ in runs for _ in steps],
                "format": ["safetensors" for _ in runs for _ in steps],
            },
        ),
    }


def tree(
    runs: Sequence[str] = ("full", "lora_r1", "lora_r8", "lora_r64"),
    steps: Sequence[int] = tuple(range(0, 400, 20)),
    matrices: int = 100,
    seed: int = 0,
    intruders: bool = True,
) -> xr.DataTree:
    """A whole report."""
    spectra, sigma = weight_spectra(runs, steps, matrices, seed)
    analyzers = [{"name": "weight_spectra", "version": 1, "parameters": {}, "statistics": []}]
    nodes: dict[str, xr.Dataset] = {"/weight_spectra": spectra}
    for index, (run, dataset) in enumerate(sigma.items()):
        nodes[f"/weight_spectra/runs/run{index}"] = dataset.assign_attrs(run=run)
    if intruders:
        nodes["/intruder_dimensions"] = intruder_dimensions(runs, steps, matrices, seed)
        parameters = {"epsilon": EPSILONS, "k": TOP}
        analyzers.append({"name": "intruder_dimensions", "version": 1, "parameters": parameters, "statistics": []})
    nodes["/metrics"] = metrics(runs, steps)
    nodes |= archive(runs, steps, matrices)
    nodes["/"] = xr.Dataset(
        attrs={
            "title": "varve report: synthetic",
            "Conventions": "varve-1",
            "created": "2026-11-22T00:00:00+00:00",
            "varve_version": "0.1.0",
            "archive": "synthetic",
            "store": "synthetic.zarr",
            "store_schema": "1",
            "software": json.dumps({"torch": "2.13.0", "xarray": "2026.9.0"}),
            "machine": json.dumps({"system": "Linux", "cores": 2}),
            "analyzers": json.dumps(analyzers),
        }
    )
    return xr.DataTree.from_dict(nodes)
