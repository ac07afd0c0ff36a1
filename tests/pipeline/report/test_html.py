"""The page: whole, self-contained, escaped, and there for every kind of report."""

from __future__ import annotations

import base64
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from analyzers.errors import ReportError
from pipeline.report import load, save, write_html
from pipeline.report.html import render
from tests.pipeline.report import synthetic

HOSTILE = ("<script>alert(1)</script>", "$x^{$", "_hidden", "a/b&c\"'", "line\nbreak\x00\x1b", "ünï…" + "x" * 200)


class Page(HTMLParser):
    """Tags with their attributes, headings and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_data(self, data: str) -> None:
        if self._in == "h2" and data.strip():
            self.headings.append(data.strip())
        if self._in != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every such tag."""
        return [attrs for name, attrs in self.tags if name == tag]


def figures(page: Page) -> list[bytes]:
    """The images' bytes."""
    return [base64.b64decode((image["src"] or "").partition("base64,")[2]) for image in page.of("img")]


@pytest.fixture(scope="module")
def large() -> tuple[str, float]:
    """The page of 100 matrices × 20 steps × 4 runs, and the CPU seconds it took."""
    tree = synthetic.tree()
    started = time.process_time()
    return render(tree), time.process_time() - started


def test_a_hundred_matrices_twenty_steps_four_runs_stay_under_5_mb(large: tuple[str, float]) -> None:
    text, seconds = large
    assert len(text.encode()) < 5e6  # measured: 1.0 MB
    assert seconds < 30  # measured: 5 s on a loaded 2-core machine


def test_sections_stand_in_the_order_in_which_a_reader_asks(large: tuple[str, float]) -> None:
    assert Page(large[0]).headings == [
        "Summary",
        "What was analysed",
        "What was not analysed, and why",
        "Loss and metrics of the runs",
        "Key variables over steps",
        "Layer by step",
        "Singular values of the matrices that moved most",
        "Intruder dimensions beside their controls",
        "Matrices that moved most",
        "Conventions and pitfalls",
        "Provenance",
    ]


def test_the_page_needs_nothing_from_outside_and_runs_no_script(large: tuple[str, float]) -> None:
    page = Page(large[0])
    assert not page.of("script") and not page.of("iframe") and not page.of("object")
    for _, attrs in page.tags:
        for name in ("src", "href"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), value
        assert not any(name.startswith("on") for name in attrs)
    assert "@import" not in large[0] and "url(http" not in large[0]
    for image in figures(page):
        if image.startswith(b"<?xml"):
            assert b"<image" not in image or b'href="data:' in image
            assert not re.search(rb'href="http', image)


def test_every_figure_has_a_caption_a_title_and_words_for_who_does_not_see_it(large: tuple[str, float]) -> None:
    page = Page(large[0])
    images, captions = page.of("img"), page.of("figcaption")
    assert len(images) == len(captions) == len(page.of("figure")) >= 12
    for image, content in zip(images, figures(page), strict=True):
        assert len(image["alt"] or "") > 30 and int(image["width"] or 0) > 200 and int(image["height"] or 0) > 100
        assert content.startswith((b"<?xml", b"\x89PNG"))


def test_axes_carry_names_and_units() -> None:
    tree = synthetic.tree(runs=("a",), matrices=3, steps=(0, 10, 20), intruders=False)
    tree["weight_spectra/spectral_norm"].attrs["units"] = "weight"
    drawn = b"".join(figures(Page(render(tree)))).decode()
    assert "spectral norm [weight]" in drawn and "training step" in drawn and ">stable rank<" in drawn


def test_what_could_not_be_analysed_is_said(large: tuple[str, float]) -> None:
    text = Page(large[0]).text
    assert "truncated: the header says 90.9 MB, the file has 12.1 MB" in text
    assert "LinAlgError: the algorithm did not converge" in text
    assert "one-dimensional" in text and "norm.weight, norm.bias" in text
    assert "the base is only the run’s own first saved step" in text


def test_the_pitfalls_are_said(large: tuple[str, float]) -> None:
    text = Page(large[0]).text
    assert "α without its null is not evidence" in text
    assert "The seed (the run) is the unit of replication" in text


def test_names_from_an_archive_are_text_and_nothing_else() -> None:
    tree = synthetic.tree(runs=HOSTILE, matrices=2, steps=(0, 10), intruders=False)
    tree["weight_spectra"].attrs["notes"] = "<b>bold</b> claims"
    text = render(tree)
    page = Page(text)
    assert not page.of("script") and not page.of("b")  # the note holds <b>
    assert "<script>alert(1)</script>" in page.text and "<script" not in text
    drawn = b"".join(image for image in figures(page) if image.startswith(b"<?xml")).decode()
    assert "<script" not in drawn and "&lt;script&gt;alert(1)" in drawn
    assert "$x^{$" in drawn and "_hidden" in drawn
    assert "\x00" not in drawn and "\x1b" not in drawn


def keyless(tree: xr.DataTree) -> xr.DataTree:
    """The same report of analyzers that declare no key variable."""
    for node in tree.subtree:
        for variable in node.data_vars.values():
            variable.attrs.pop("key", None)
    return tree


STEPS = (0, 10, 20)
KINDS: dict[str, dict[str, Any]] = {
    "one run with one step": {"runs": ("lone",), "steps": (0,), "matrices": 5},
    "one matrix": {"runs": ("lone",), "steps": STEPS, "matrices": 1, "intruders": False},
    "steps over six decades": {
        "runs": ("a", "b"),
        "steps": (0, 1, 10, 100, 10**4, 10**6),
        "matrices": 5,
        "intruders": False,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_page_for(kind: str) -> None:
    text = render(synthetic.tree(**KINDS[kind]))
    assert len(Page(text).of("img")) >= 4 and "Summary" in text
    assert len(text.encode()) < 5e6


def test_many_runs_share_one_entry_of_the_legend() -> None:
    page = Page(render(synthetic.tree(tuple(f"seed {i}" for i in range(45)), STEPS, 2, intruders=False)))
    assert b"35 more runs" in b"".join(figures(page))
    assert "The first 16 of 45 runs are drawn" in page.text


def test_a_report_without_key_variables_or_archive_still_has_a_page() -> None:
    page = Page(render(keyless(synthetic.tree(runs=("a",), matrices=3, steps=STEPS, intruders=False))))
    assert "declares key variables" in page.text
    bare = Page(render(xr.DataTree.from_dict({"/": xr.Dataset()})))
    assert "no analyzer gave a result" in bare.text


def test_a_plugins_key_variable_is_drawn_like_our_own() -> None:
    rng = np.random.default_rng(0)
    values = xr.Variable(
        ("run", "step", "matrix", "head"),
        rng.random((1, 3, 4, 2)),
        {"long_name": "sharpness of heads", "units": "bit", "key": 1},
    )
    dataset = xr.Dataset({"sharpness": values}, synthetic.coordinates(["a"], STEPS, 4)).assign_coords(head=[3, 5])
    page = Page(render(xr.DataTree.from_dict({"/": xr.Dataset(), "/attention_plugin": dataset})))
    assert "sharpness of heads (head = 3)" in page.text and "sharpness of heads (head = 5)" in page.text
    assert b"sharpness [bit]" in b"".join(figures(page))


def test_a_variable_without_steps_is_shown_with_none() -> None:
    values = xr.Variable(("run", "matrix"), np.array([[1.0, 2.0], [3.0, 5.0]]), {"long_name": "final gap", "key": 1})
    dataset = xr.Dataset({"gap": values}, synthetic.coordinates(["a", "b"], STEPS, 2)).drop_vars("step")
    drawn = b"".join(figures(Page(render(xr.DataTree.from_dict({"/": xr.Dataset(), "/plugin": dataset})))))
    assert b">gap<" in drawn and b"step" not in drawn


def test_the_intruders_caption_counts_the_matrices_of_each_run() -> None:
    tree = synthetic.tree(runs=("a", "b"), matrices=7, steps=STEPS)
    tree["intruder_dimensions/n_intruders"].values[1, :, 3:] = np.nan
    assert "Sums over the matrices of each run (7 in a, 3 in b)." in Page(render(tree)).text


def test_values_that_are_all_missing_or_infinite_do_no_harm() -> None:
    tree = synthetic.tree(runs=("a", "b"), matrices=2, steps=STEPS)
    tree["weight_spectra/stable_rank"].values[:] = np.nan
    tree["weight_spectra/alpha"].values[:] = np.inf
    tree["weight_spectra/spectral_norm"].values[:] = 0.0
    tree["intruder_dimensions/n_intruders_null"].values[:] = np.nan
    assert "Summary" in render(tree)


def test_the_page_of_a_saved_report_is_that_of_the_tree(tmp_path: Path) -> None:
    tree = synthetic.tree(runs=("a",), matrices=2, steps=STEPS, intruders=False)
    path = save(tree, tmp_path / "report.zarr")
    assert render(load(path)) == render(tree)


def test_a_page_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot write .*report\.html"):
        write_html(xr.DataTree.from_dict({"/": xr.Dataset()}), tmp_path / "file" / "report.html")


@pytest.mark.parametrize("empty", [("step",), ("run",), ("matrix",), ("run", "step"), ("run", "step", "matrix")])
def test_the_page_of_a_report_in_which_nothing_could_be_read(empty: tuple[str, ...]) -> None:
    tree = synthetic.tree(matrices=2, steps=(0, 10))
    datasets = {node.path: node.to_dataset(inherit=False) for node in tree.subtree}
    cut = {path: data.isel({dim: [] for dim in empty if dim in data.dims}) for path, data in datasets.items()}
    nothing = xr.DataTree.from_dict(cut)
    nothing.attrs = tree.attrs
    assert "</html>" in render(nothing)
