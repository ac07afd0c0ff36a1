"""A layout's recipes bound to digests: keys of content, tied matrices once, and a reason for what has none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archive.recipes import Dense, LowRankProduct, Merged, Recipe, recipe_key, rename
from pipeline.archive.text import visible
from pipeline.archive.types import Layout, MatrixSpec, Problem, TensorHeader, Unmeasured
from pipeline.store.binding import bind, equal_groups
from pipeline.store.records import CheckpointRecord
from pipeline.store.ties import Evidence, tied_to

NAMES = [visible(name) for name in ("w", 'quote"d', "ünï", "a\\b", "\x01")]
"""As a layout has them: a header escapes what cannot be printed, and recipes are made from headers."""
TURN = ("permute", 1, 0)

ops = st.lists(st.sampled_from([TURN, ("reshape", 3, 4), ("select", 0, 1), ("slice", 0, 1, 2, 1)]), max_size=3).map(
    tuple
)
dense = st.builds(Dense, st.sampled_from(NAMES), ops)
products = st.builds(LowRankProduct, dense, dense, st.floats(allow_nan=False, allow_infinity=False))
recipes = dense | products | st.builds(Merged, dense, products)


def record(layout: Layout, digests: list[str | None], problems: tuple[Problem, ...] = ()) -> CheckpointRecord:
    return CheckpointRecord("r", 1, 0, "l", tuple(digests), (), (), "", "", problems=problems)


def ties(one: CheckpointRecord, of: Layout) -> dict[str, str]:
    """As a store that holds nothing else, of tensors that are not constant."""
    return tied_to(equal_groups(one, of), Evidence({}, False, lambda _: False, lambda _: ()))


def layout(*matrices: tuple[str, Recipe, str], tensors: list[str] | None = None) -> Layout:
    names = tensors if tensors is not None else NAMES
    specs = tuple(MatrixSpec(name, (4, 3), recipe, kind=kind) for name, recipe, kind in matrices)
    return Layout(tuple(TensorHeader(name, "float32", (4, 3), 48) for name in names), specs)


@settings(max_examples=200)
@given(recipes, st.lists(st.sampled_from(["a" * 32, "b" * 32, "c" * 32]), min_size=5, max_size=5))
def test_the_quick_key_is_the_recipe_key_of_the_bound_recipe(recipe: Recipe, digests: list[str]) -> None:
    of = layout(("m", recipe, "linear"))
    (bound,) = bind(record(of, list(digests)), of).matrices
    assert bound.recipe == rename(recipe, dict(zip(NAMES, digests, strict=True)).__getitem__)
    assert bound.key == recipe_key(bound.recipe)


def test_the_output_head_tied_to_the_embedding_counts_once_whichever_way_round() -> None:
    tied = layout(
        ("lm_head", Dense("head"), "unembedding"),
        ("embed", Dense("embed", (TURN,)), "embedding"),
        ("other", Dense("other"), "linear"),
        tensors=["head", "embed", "other"],
    )
    one = record(tied, ["a" * 32, "a" * 32, "b" * 32])
    found = bind(one, tied, ties(one, tied))
    assert [matrix.spec.name for matrix in found.matrices] == ["embed", "other"]
    assert found.unmeasured == (Unmeasured("head", "tied to embed"),)
    assert [matrix.spec.name for matrix in found.twins] == ["lm_head"]
    other = record(tied, ["a" * 32, "c" * 32, "b" * 32])
    untied = bind(other, tied, ties(other, tied))
    assert [matrix.spec.name for matrix in untied.matrices] == ["lm_head", "embed", "other"]


def test_two_cuts_of_one_tensor_are_two_matrices() -> None:
    cuts = layout(
        ("q", Dense("qkv", (("slice", 0, 0, 4, 1),)), "q"),
        ("k", Dense("qkv", (("slice", 0, 4, 8, 1),)), "k"),
        tensors=["qkv"],
    )
    assert equal_groups(record(cuts, ["a" * 32]), cuts) == ()


def test_adapters_with_equal_factors_and_another_scale_differ() -> None:
    of = layout(
        ("x", LowRankProduct(Dense("b"), Dense("a"), 1.0), "linear"),
        ("y", LowRankProduct(Dense("b"), Dense("a"), 2.0), "linear"),
        ("z", LowRankProduct(Dense("b", (TURN,)), Dense("a"), 2.0), "linear"),
        tensors=["b", "a"],
    )
    one = record(of, ["b" * 32, "a" * 32])
    found = bind(one, of, ties(one, of))
    assert len({matrix.key for matrix in found.matrices}) == 3


def test_a_matrix_of_an_unreadable_tensor_is_listed_with_the_reason() -> None:
    of = layout(("m", Dense("w"), "linear"), ("n", Dense("v"), "linear"), tensors=["w", "v"])
    found = bind(record(of, [None, "a" * 32], (Problem("f", "truncated", "w"),)), of)
    assert [matrix.spec.name for matrix in found.matrices] == ["n"]
    assert found.unmeasured == (Unmeasured("w", "no values for m: truncated"),)


def test_two_unreadable_tensors_are_not_tied_to_each_other() -> None:
    of = layout(("m", Dense("w"), "linear"), ("n", Dense("v"), "linear"), tensors=["w", "v"])
    assert equal_groups(record(of, [None, None]), of) == ()
    reasons = [u.reason for u in bind(record(of, [None, None]), of).unmeasured]
    assert len(reasons) == 2 and not any("tied" in reason for reason in reasons)
