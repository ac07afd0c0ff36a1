"""A run whose architecture changes: only steps of one architecture are compared, and nothing of that is a problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pipeline
from pipeline.store import Store
from pipeline.units.addresses import Because
from pipeline.units.selection import Selection
from pipeline.units.sources import Sources


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Steps 1, 2, 4 and 6 of width 16, steps 3 and 5 of width 12."""
    folder = tmp_path_factory.mktemp("mixed")
    for step in range(1, 7):
        width = 12 if step in (3, 5) else 16
        torch.save({f"fc{at}.weight": torch.randn(width, width) for at in (1, 2)}, folder / f"step_{step}.pt")
    return pipeline.ingest(folder, folder / "S.zarr", name="net")


def test_each_step_is_compared_with_the_step_before_it_of_its_architecture(store: Store) -> None:
    sources = Sources(store, Selection())
    assert sources.architectures("net") == ((1, 2, 4, 6), (3, 5))
    before = {step: sources.reference("net", step, "previous") for step in range(1, 7)}
    assert {step: of.step for step, of in before.items() if not isinstance(of, Because)} == {2: 1, 4: 2, 5: 3, 6: 4}
    assert all(not of.wrong for of in before.values() if isinstance(of, Because))


def test_what_cannot_be_compared_with_the_base_is_by_design(store: Store) -> None:
    reference = Sources(store, Selection()).reference("net", 3, "base")
    assert isinstance(reference, Because) and not reference.wrong
    assert reference.reason == "has a different architecture from net@1, which it is compared with"


def test_everything_else_is_measured_and_nothing_is_a_problem(store: Store) -> None:
    names = ["weight_spectra", "intruder_dimensions"]
    pipeline.compute(store, names, workers=1)
    tree = pipeline.assemble(store, names)
    spectra = tree["weight_spectra"]["spectral_norm"].sel(run="net")
    assert bool(spectra.notnull().all())
    change = tree["intruder_dimensions"]["relative_change"].sel(run="net").isel(matrix=0)
    assert [int(step) for step in change["step"].values[np.isfinite(change.values)]] == [2, 4, 6]
    skipped = tree["/archive/skipped"]
    assert not skipped["wrong"].values.any()
