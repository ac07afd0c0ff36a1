"""Runs that share no matrices stand in groups: same values, same page and tables, memory in proportion to the data."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from analyzers.intruder_dimensions import IntruderDimensions
from analyzers.weight_spectra import WeightSpectra
from pipeline.compute.cluster import ThreadCluster
from pipeline.compute.run import compute
from pipeline.report import assemble, export, groups, load, save, write_html
from pipeline.report.groups import Extent, group, joint_rows, report_bytes
from pipeline.store import Store
from pipeline.units.selection import Selection

ANALYZERS = (WeightSpectra(), IntruderDimensions(IntruderDimensions.Parameters(null=False)))


@pytest.fixture(autouse=True, scope="module")
def no_report_is_small() -> Iterator[None]:
    """These archives are small, and small reports are not split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "SMALL_ROWS", 0)
        yield


def test_a_small_report_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SMALL_ROWS", 50)
    assert group([extent("a", range(5), "x"), extent("b", range(5), "y")]) == (("a", "b"),)
    assert group([extent("a", range(5), "x"), extent("b", range(6, 20), "y")]) == (("a",), ("b",))


def extent(run: str, steps: Sequence[int], *matrices: str) -> Extent:
    return Extent(run, frozenset(steps), frozenset(matrices))


def test_runs_that_share_matrices_stand_together() -> None:
    full, lora, other = extent("full", [1, 2], "q", "k"), extent("lora", [5], "q"), extent("other", [1, 2], "conv")
    assert group([full, lora]) == (("full", "lora"),)
    assert group([full, other, lora]) == (("full", "lora"), ("other",))


def test_runs_are_connected_through_others() -> None:
    assert group([extent("a", [1], "x"), extent("b", [1], "y"), extent("c", [1], "x", "y")]) == (("a", "b", "c"),)


def test_a_run_without_matrices_makes_no_group() -> None:
    empty = extent("empty", [1])
    assert group([extent("a", [1], "x"), empty]) == (("a", "empty"),)
    assert group([extent("a", [1], "x"), empty, extent("b", [1], "y")]) == (("a",), ("b",))


def test_one_shared_name_does_not_make_a_large_report_dense() -> None:
    nets = [extent(f"net{r}", range(r, 400, 40), "head", *(f"net{r}.{m}" for m in range(40))) for r in range(16)]
    assert len(group(nets[:3])) == 1
    assert len(group(nets)) == 16
    assert joint_rows(nets) == sum(net.rows for net in nets)


def test_the_price_of_a_report_is_linear_in_nets_that_share_nothing() -> None:
    def price(count: int) -> int:
        runs = [extent(f"net{r}", [r, 100 + r], f"net{r}.a", f"net{r}.b") for r in range(count)]
        return report_bytes(runs) - groups.BASE_BYTES

    assert price(16) == 16 * price(1)


extents = st.lists(
    st.tuples(st.sets(st.integers(0, 12), max_size=6), st.sets(st.sampled_from("abcdefgh"), max_size=8)), max_size=12
).map(lambda rows: [Extent(f"run{i}", frozenset(s), frozenset(m if s else ())) for i, (s, m) in enumerate(rows)])


@given(extents, st.integers(0, 200))
def test_places_are_bounded_by_what_is_filled(runs: list[Extent], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "JOINT_ROWS", limit)
        grouped, places = group(runs), joint_rows(runs)
    listed = [run for members in grouped for run in members]
    assert sorted(set(listed)) == sorted(listed)
    assert {one.run for one in runs if one.rows} <= set(listed)
    assert places <= max(limit, groups.PADDING * sum(one.rows for one in runs))


def nets(root: Path, count: int, matrices: int = 3, steps: int = 2) -> None:
    """Runs of nets that share no name of a parameter, each with steps of its own."""
    torch.manual_seed(0)
    for run in range(count):
        (root / f"net{run}").mkdir(parents=True)
        for step in range(steps):
            weights = {f"net{run}.{m}.weight": torch.randn(8, 8) for m in range(matrices)}
            torch.save(weights, root / f"net{run}" / f"step_{1 + run + 100 * step}.pt")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two nets that share nothing, and two runs of a third, at steps that differ and on one base."""
    root = tmp_path_factory.mktemp("groups")
    nets(root / "zoo", 2)
    for run, steps in (("seed0", (0, 10, 20)), ("seed1", (0, 15))):
        (root / "zoo" / run).mkdir()
        for step in steps:
            weights = {f"layers.{m}.weight": torch.randn(8, 6) for m in range(2)}
            torch.save(weights, root / "zoo" / run / f"step_{step}.pt")
    filled = pipeline.ingest(root / "zoo", root / "S.zarr", base="seed*=zoo/seed0@0")
    with ThreadCluster(1) as cluster:
        compute(filled, ANALYZERS, cluster)
    return Store.open(filled.path)


@pytest.fixture(scope="module")
def tree(store: Store, tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    return load(save(assemble(store, ANALYZERS), tmp_path_factory.mktemp("report") / "report.zarr"))


GROUPS = (("zoo/net0",), ("zoo/net1",), ("zoo/seed0", "zoo/seed1"))


def test_each_group_is_the_report_of_its_runs(store: Store, tree: xr.DataTree) -> None:
    for number, runs in enumerate(GROUPS, 1):
        part = tree[f"groups/{number}"]
        assert json.loads(part.attrs["runs"]) == list(runs)
        alone = assemble(store, ANALYZERS, Selection(tuple(runs)))
        for analyzer in ANALYZERS:
            xr.testing.assert_identical(
                part[analyzer.name].to_dataset().drop_attrs(), alone[analyzer.name].to_dataset().drop_attrs()
            )


def test_what_has_no_matrices_is_joined_over_runs_and_steps(store: Store, tree: xr.DataTree) -> None:
    joined = tree["intruder_dimensions"].to_dataset()
    assert joined["run"].values.tolist() == [run for runs in GROUPS for run in runs]
    for number, runs in enumerate(GROUPS, 1):
        part = tree[f"groups/{number}/intruder_dimensions"].to_dataset()
        for run in runs:
            own = part.sel(run=run)
            for name in ("total_intruders", "measured"):
                assert joined[name].sel(run=run, step=part["step"]).equals(own[name])
            assert joined["base_kind"].sel(run=run).item() == ("given" if "seed" in run else "first_step")
    assert not joined["measured"].sel(run="zoo/net0", step=20)


def test_singular_values_stand_per_run_on_their_own_axes(tree: xr.DataTree) -> None:
    sigma = tree["weight_spectra/runs/zoo_net1/sigma"]
    assert sigma.shape == (2, 3, 8)
    assert sigma["run_step"].values.tolist() == [2, 102]


def test_the_page_shows_the_runs_of_all_groups(tree: xr.DataTree, tmp_path: Path) -> None:
    page = write_html(tree, tmp_path / "report.html").read_text()
    curves = page.split('id="curves"')[1].split('id="heatmaps"')[0]
    assert all(run in curves for run in ("net0", "net1", "seed0", "seed1"))
    assert "8 distinct matrices" in page
    movers = page.split('id="movers"')[-1]
    assert all(name in movers for name in ("net0.0", "net1.0", "layers.0"))


def test_tables_hold_the_groups_one_below_the_other(tree: xr.DataTree, tmp_path: Path) -> None:
    folder = export(tree, "csv", tmp_path / "csv")
    frame = pd.read_csv(folder / "weight_spectra.csv")
    assert len(frame) == 2 * 2 * 3 + (3 + 2) * 2
    assert set(frame["run"]) == {run for runs in GROUPS for run in runs}
    assert not list(folder.glob("groups*"))
    small = xr.DataTree.from_dict({"/groups/2/weight_spectra": tree["groups/2/weight_spectra"].to_dataset()[["alpha"]]})
    with xr.open_datatree(export(small, "netcdf", tmp_path / "report.nc"), engine="h5netcdf") as opened:
        assert opened["groups/2/weight_spectra/alpha"].shape == (1, 2, 3)


def test_narrower_groups_keep_what_is_between_their_runs(
    store: Store, tree: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "JOINT_ROWS", 0)
    monkeypatch.setattr(groups, "PADDING", 1)
    narrow = assemble(store, ANALYZERS)
    assert len(narrow["groups"].children) == 4
    wide = tree["groups/3/intruder_dimensions"].to_dataset()
    seed = narrow["groups/4/intruder_dimensions"].to_dataset()
    assert seed["step"].values.tolist() == [0, 15]
    for name, other in (("delta_cosine", "other_run"), ("similarity_matched", "matched_to")):
        expected, got = wide[name].sel(run=["zoo/seed1"]), seed[name].sel({other: wide[other]})
        np.testing.assert_array_equal(got.values, expected.values)
    assert float(seed["delta_cosine"].sel(run="zoo/seed1", other_run="zoo/seed0").notnull().sum()) == 2


def test_memory_grows_with_the_data_and_not_with_runs_times_steps_times_matrices(tmp_path: Path) -> None:
    nets(tmp_path / "zoo", 6, matrices=4)
    filled = pipeline.ingest(tmp_path / "zoo", tmp_path / "S.zarr")
    with ThreadCluster(1) as cluster:
        compute(filled, ANALYZERS, cluster)
    runs = [record.id for record in filled.runs()]

    def peak(chosen: Sequence[str]) -> int:
        tracemalloc.start()
        kept = assemble(filled, ANALYZERS, Selection(tuple(chosen)))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(kept["groups"].children) == len(chosen)
        return size

    peak(runs[:2])  # what is imported and cached once
    assert peak(runs) < 3 * peak(runs[:3])


def test_an_analyzer_without_a_variable_over_runs_alone_has_an_empty_joint_node() -> None:
    of_matrices = xr.Dataset({"alpha": (("run", "matrix"), [[1.0]])}, {"run": ["a"], "matrix": ["w"]})
    assert not groups.joined([of_matrices, xr.Dataset()], ["a", "b"]).variables
    of_runs = xr.Dataset({"total": (("run",), [2.0])}, {"run": ["b"]})
    assert groups.joined([of_matrices, xr.Dataset(), of_runs], ["a", "b"])["total"].values.tolist() == [2.0]
