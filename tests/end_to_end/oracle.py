"""The definitions once more, in plain numpy float64, to judge the product's numbers by. Nothing of ours is imported.

Written from the definitions, not from the code: a full SVD instead of a Gram matrix, loops instead of pruned scans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import integrate, optimize, special

EPS = np.finfo(np.float64).eps
TW95 = 0.979


def entropy(shares: np.ndarray) -> float:
    """−Σ q ln q."""
    q = shares[shares > 0]
    return float(-(q * np.log(q)).sum())


def mean_squared_ulp(stored: np.ndarray, bits: int, least: int) -> float:
    """mean(ulp(w)²) of a format of so many fraction bits whose least normal exponent is `least`; zeros count 0."""
    w = np.abs(stored.astype(np.float64))
    with np.errstate(divide="ignore"):
        exponent = np.where(w > 0, np.floor(np.log2(np.where(w > 0, w, 1.0))), 0.0)
    ulp = np.where(w > 0, 2.0 ** (np.maximum(exponent, least) - bits), 0.0)
    return float((ulp**2).mean())


def power_law(sigma: np.ndarray, floor: float) -> dict[str, float]:
    """Every xmin but the largest is tried, with WeightWatcher's one-sided distance; ties to the smallest."""
    lam = np.sort(sigma[sigma > floor] ** 2)
    if len(lam) < 20:
        return {"alpha": math.nan}
    best: tuple[float, float, float, int] = (math.inf, 0.0, 0.0, 0)
    for i in range(len(lam) - 1):
        tail, n = lam[i:], len(lam) - i
        alpha = 1 + n / np.log(tail / lam[i]).sum()
        model = 1 - (tail / lam[i]) ** (1 - alpha)
        distance = float(np.abs(model - np.arange(n) / n).max())
        if distance < best[0]:
            best = (distance, float(alpha), float(lam[i]), n)
    return dict(zip(("ks_distance", "alpha", "xmin", "n_tail"), best, strict=True))


def mp_median(q: float) -> float:
    """The median of the Marchenko–Pastur law of λ/(s²N), by integrating its density."""
    a, b = (1 - math.sqrt(q)) ** 2, (1 + math.sqrt(q)) ** 2

    def below(x: float) -> float:
        # λ = mid − half·cos t takes the square roots at both edges away.
        mid, half = (a + b) / 2, (b - a) / 2
        end = math.acos(max(-1.0, min(1.0, (mid - x) / half)))
        density = lambda t: (half * math.sin(t)) ** 2 / (2 * math.pi * q * (mid - half * math.cos(t)))  # noqa: E731
        return float(integrate.quad(density, 0, end, epsabs=1e-12)[0])

    return float(optimize.brentq(lambda x: below(x) - 0.5, a, b, xtol=1e-13))


def spike_edge(s: float, m: int, n: int) -> float:
    """Johnstone's edge with Ma's centring."""
    a, b = math.sqrt(max(m, n) - 0.5), math.sqrt(min(m, n) - 0.5)
    return s * s * ((a + b) ** 2 + TW95 * (a + b) * (1 / a + 1 / b) ** (1 / 3))


def median_scale(lam: np.ndarray, m: int, n: int, least: float, widening: float) -> float:
    """s from the median eigenvalue, iterated over the spikes, never below that of rounding."""
    large, k = max(m, n), 0
    s = math.nan
    for _ in range(20):
        if k >= len(lam):
            return math.nan
        s = max(math.sqrt(np.median(lam[k:]) / (large * mp_median((len(lam) - k) / large))), least)
        found = int((lam > widening * spike_edge(s, m, n)).sum())
        if found == k:
            break
        k = found
    return s


def spectrum(
    w: np.ndarray, noise_floor: float, product: bool = False, p: int | None = None, widening: float = 1.0
) -> dict[str, float]:
    """Every scalar of `weight_spectra` that follows from σ, and the bulk fits of a dense matrix.

    p: of a circuit; widening: of the spike edge for the error of s by the median.
    """
    m, n = w.shape
    p, large = p or min(m, n), max(m, n)
    sigma = np.linalg.svd(w, compute_uv=False)[:p]
    lam = sigma**2
    if product:  # exact zeros of a product are not rounding
        sigma = np.where(sigma > large * EPS * sigma[0], sigma, 0.0)
        lam = sigma**2
    out = {
        "spectral_norm": float(sigma[0]),
        "frobenius_norm": math.sqrt(lam.sum()),
        "nuclear_norm": float(sigma.sum()),
        "stable_rank": lam.sum() / lam[0],
        "effective_rank": math.exp(entropy(sigma / sigma.sum())),
        "spectral_entropy": entropy(lam / lam.sum()) / math.log(p) if p > 1 else math.nan,
        "participation_ratio": lam.sum() ** 2 / (lam**2).sum(),
    }
    deficient = sigma[-1] <= large * EPS * sigma[0]
    out["condition_number"] = 1 / (large * EPS) if deficient else sigma[0] / sigma[-1]
    for q in (0.5, 0.9, 0.95, 0.99):
        out[f"energy_rank_{q}"] = int(np.argmax(np.cumsum(lam) >= q * lam.sum() * (1 - 1e-12))) + 1
    floor = max(noise_floor, large * EPS * sigma[0])
    fit = power_law(sigma, floor)
    out |= {name: fit.get(name, math.nan) for name in ("alpha", "xmin", "ks_distance", "n_tail")}
    alpha = out["alpha"]
    out["alpha_hat"] = alpha * math.log10(lam[0])
    out["alpha_sigma_iid"] = (alpha - 1) / math.sqrt(out["n_tail"]) if alpha == alpha else math.nan
    out["log_alpha_norm"] = math.log10((lam[lam > 0] ** alpha).sum()) if alpha == alpha else math.nan
    rising = np.sort(lam[sigma > floor])
    i = len(rising) // 2
    out["hill_alpha"] = 1 + (len(rising) - i) / np.log(rising[i:] / rising[i]).sum() if len(rising) >= 20 else math.nan
    if not product and p > 1:
        least = floor / (math.sqrt(m) + math.sqrt(n))
        total, middle = max(float(w.std()), least), median_scale(lam, m, n, least, widening)
        for name, s, factor in (("total", total, 1.0), ("median", middle, widening)):
            upper = s * s * (math.sqrt(m) + math.sqrt(n)) ** 2 if s > least else math.nan
            edge = factor * spike_edge(s, m, n)
            bulk = {f"mp_scale_{name}": s, f"mp_edge_{name}": edge, f"mp_softrank_{name}": upper / lam[0]}
            bulk[f"n_spikes_{name}"] = int((lam > edge).sum())
            # Too few σ above rounding have no bulk.
            out |= bulk if len(rising) >= min(p, 20) else dict.fromkeys(bulk, math.nan)
    return out


def ggd(w: np.ndarray) -> tuple[float, float]:
    """(β, a) of exp(−(|w|/a)^β): the profile likelihood, maximised over β in [.1, 10]."""
    x = np.abs(w[w != 0]).ravel()
    x, unit = x / x.max(), x.max()
    count = w.size

    def cost(beta: float) -> float:
        mean = (x**beta).sum() / count
        a = (beta * mean) ** (1 / beta)
        return -(math.log(beta) - math.log(2 * a) - special.gammaln(1 / beta) - 1 / beta)

    beta = float(optimize.minimize_scalar(cost, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}).x)
    return beta, unit * (beta * (x**beta).sum() / count) ** (1 / beta)


def welore(spectra: Sequence[np.ndarray], reduction: float = 0.5) -> list[float]:
    """mean(σ̂ < t) per spectrum, t the least number at which all pooled σ̂ reach the reduction."""
    scaled = [(s - s[-1]) / (s[0] - s[-1]) for s in spectra]
    pooled = np.sort(np.concatenate(scaled))
    t = np.nextafter(pooled[math.ceil(reduction * len(pooled) - 1e-9) - 1], np.inf)
    return [float((s < t).mean()) for s in scaled]


def scores(w: np.ndarray, w0: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """(similarity (2, k), σ (k,)): left and right; NaN beyond the rank of W."""
    u, sigma, vh = np.linalg.svd(w, full_matrices=False)
    u0, _, vh0 = np.linalg.svd(w0, full_matrices=False)
    kept = min(k, int((sigma > max(w.shape) * EPS * sigma[0]).sum()))
    similarity, leading = np.full((2, k), np.nan), np.full(k, np.nan)
    similarity[0, :kept] = np.abs(u0.T @ u[:, :kept]).max(axis=0)
    similarity[1, :kept] = np.abs(vh0 @ vh[:kept].T).max(axis=0)
    leading[: min(k, len(sigma))] = sigma[:k]
    return similarity, leading


def matched_scores(w0: np.ndarray, delta: np.ndarray, norm: float, k: int = 10) -> np.ndarray:
    """Scores of W0 + c Δ with ‖c Δ‖_F = norm."""
    return scores(w0 + delta * (norm / np.linalg.norm(delta)), w0, k)[0]


def null_counts(w0: np.ndarray, delta: np.ndarray, epsilon: float, k: int, draws: int, seed: int) -> np.ndarray:
    """(draws, 2) counts for Δ with its own σ and Haar-random vectors, against the base itself."""
    rng = np.random.default_rng(seed)
    sigma = np.linalg.svd(delta, compute_uv=False)
    rank = int((sigma > max(delta.shape) * EPS * sigma[0]).sum())
    counts = np.empty((draws, 2))
    for draw in range(draws):
        left = np.linalg.qr(rng.standard_normal((w0.shape[0], rank)))[0]
        right = np.linalg.qr(rng.standard_normal((w0.shape[1], rank)))[0]
        similarity, _ = scores(w0 + (left * sigma[:rank]) @ right.T, w0, k)
        counts[draw] = (similarity < epsilon).sum(axis=1)
    return counts


def chance_similarity(dimension: int, count: int, draws: int = 20000) -> float:
    """E max_{i ≤ count} |x_i| on the unit sphere, simulated (standard error about .1/√draws)."""
    x = np.random.default_rng(5).standard_normal((draws, dimension))
    return float((np.abs(x[:, :count]).max(axis=1) / np.linalg.norm(x, axis=1)).mean())


def change(w: np.ndarray, w0: np.ndarray, delta: np.ndarray, ranks: Sequence[int] = (1, 5, 10, 50)) -> dict[str, float]:
    """Sizes of Δ and its shares inside the base's subspaces."""
    u0, _, vh0 = np.linalg.svd(w0, full_matrices=False)
    sigma = np.linalg.svd(delta, compute_uv=False)
    total = (delta**2).sum()
    out = {
        "delta_norm": math.sqrt(total),
        "delta_spectral_norm": float(sigma[0]),
        "relative_change": math.sqrt(total) / np.linalg.norm(w0),
        "cosine_to_base": float((w * w0).sum() / np.linalg.norm(w) / np.linalg.norm(w0)),
        "delta_effective_rank": math.exp(entropy(sigma / sigma.sum())),
        "delta_stable_rank": total / sigma[0] ** 2,
        "sign_flip_fraction": float((np.sign(w) * np.sign(w0) < 0).mean()),
    }
    for r in ranks:
        fits = r <= len(sigma)
        out[f"left_{r}"] = float(((u0[:, :r].T @ delta) ** 2).sum() / total) if fits else math.nan
        out[f"right_{r}"] = float(((delta @ vh0[:r].T) ** 2).sum() / total) if fits else math.nan
    count = math.ceil(0.01 * delta.size)
    out["top_entry_share"] = float((np.sort(np.abs(delta).ravel())[-count:] ** 2).sum() / total)
    return out


def principal_angles(w: np.ndarray, w0: np.ndarray, side: int, k: int) -> np.ndarray:
    """Ascending angles between the leading k-dimensional singular subspaces; (k,)."""
    first, second = (np.linalg.svd(x.T if side else x, full_matrices=False)[0][:, :k] for x in (w0, w))
    return np.arccos(np.clip(np.linalg.svd(first.T @ second, compute_uv=False), -1, 1))


def mask(delta: np.ndarray, fraction: float = 0.01) -> set[int]:
    """Flat places of the entries that changed most."""
    count = max(1, math.ceil(fraction * delta.size))
    return set(np.argsort(-np.abs(delta).ravel(), kind="stable")[:count].tolist())


def phi(a: np.ndarray, b: np.ndarray, i: int, j: int) -> float:
    """‖U_A[:, :i]ᵀ U_B[:, :j]‖² / min(i, j) of the right singular vectors of two factors A (r, d)."""
    va, vb = (np.linalg.svd(x, full_matrices=False)[2] for x in (a, b))
    return float(((va[:i] @ vb[:j].T) ** 2).sum() / min(i, j)) if i <= len(va) and j <= len(vb) else math.nan
