"""What a report says of how its vectors were found: every fallback is counted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from analyzers.contract import LowRank, MatrixInfo, RunInfo, Stack, Statistic, Sum
from analyzers.intruder_dimensions.intruders import Intruders
from analyzers.intruder_dimensions.methods_note import notes_on_methods
from analyzers.intruder_dimensions.null import IntruderNull
from analyzers.intruder_dimensions.spectrum import UpdateSpectrum
from analyzers.linalg import methods
from tests.analyzers.intruder_dimensions.memory import measure, observe
from tests.analyzers.linalg.adapters import Case


def view_of(codes: list[int], dense: list[int], shapes: list[tuple[int, int]], role: str) -> Any:
    """A view with one run of one step, each matrix of its own shape."""
    names = tuple(f"W{i}" for i in range(len(codes)))
    infos = {name: MatrixInfo(name, shape, role=role) for name, shape in zip(names, shapes, strict=True)}
    fields = {"method": np.array(codes), "dense": np.array(dense)}

    def stacks(statistic: Statistic, field: str) -> Iterator[Stack]:
        zeros = np.zeros(len(codes), dtype=int)
        yield Stack(zeros, zeros, np.arange(len(codes)), fields[field])

    return SimpleNamespace(
        runs=(RunInfo("run", (1,)),), matrices=names, stacks=stacks, info=lambda run, matrix: infos[matrix]
    )


def test_fallbacks_of_adapters_and_of_null_draws_are_counted_and_small_matrices_are_not() -> None:
    shapes = [(256, 256), (512, 256), (256, 300), (64, 64), (256, 256)]
    view = view_of(
        [methods.ADAPTER, methods.ADAPTER, methods.SVD, methods.GRAM, -1], [0, 3, 20, 20, 0], shapes, "delta"
    )
    scores, null = notes_on_methods(view, Intruders(), IntruderNull(draws=20))
    assert "2 of 3 matrices certified" in scores and "instead, full SVD 1" in scores
    assert "57 of 80 certified" in null and "full factorization 23" in null


def test_dense_matrices_are_counted_from_the_side_on_where_the_iteration_is_tried() -> None:
    view = view_of(
        [methods.KRYLOV, methods.GRAM, methods.GRAM], [0, 0, 0], [(2000, 1200), (1500, 1500), (384, 384)], "weight"
    )
    (note,) = notes_on_methods(view, Intruders(), IntruderNull())
    assert "1 of 2" in note and "eigenvectors of the Gram 1" in note


def test_nothing_is_said_where_nothing_was_tried() -> None:
    assert notes_on_methods(view_of([methods.GRAM], [20], [(24, 24)], "weight"), Intruders(), None) == ()


def test_the_statistics_store_what_the_note_counts() -> None:
    for spectrum, k, method, draws in (("power", 5, methods.ADAPTER, 0), ("flat", 5, methods.SVD, 4)):
        w0, _, delta = Case((150, 150), 2, spectrum, "random", 0, 5).build()
        tuned = Sum(w0, delta)
        assert int(measure(Intruders(k), observe(tuned, w0))["method"]) in (
            {method, methods.GRAM} if draws else {method}
        )
        spectra = {"update_spectrum": measure(UpdateSpectrum(), observe(tuned, w0))}
        result = measure(IntruderNull(4, k), observe(tuned, w0, statistics=spectra))
        assert int(result["dense"]) == draws
        assert np.isfinite(result["similarity"]).all()


def test_an_adapters_update_and_its_sum_with_the_base_take_the_same_way() -> None:
    w0, _, delta = Case((150, 200), 2, "power", "random", 0, 6).build()
    as_sum, as_delta = (
        measure(Intruders(5), observe(content, w0, role=role))
        for content, role in ((Sum(w0, delta), "weight"), (delta, "delta"))
    )
    assert int(as_sum["method"]) == int(as_delta["method"]) == methods.ADAPTER
    for field in ("similarity", "sigma", "window", "angles", "error"):
        np.testing.assert_array_equal(as_sum[field], as_delta[field])
    merged = measure(Intruders(5), observe(w0 + delta.dense(), w0))
    np.testing.assert_allclose(as_sum["similarity"], merged["similarity"], atol=1e-6)
    np.testing.assert_allclose(as_sum["storage"], merged["storage"], rtol=1e-3, atol=1e-9)
    assert isinstance(delta, LowRank) and w0.dtype == torch.float64
