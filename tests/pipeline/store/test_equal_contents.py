"""Equal contents are found by digest, and nothing that training does by itself is taken for a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.types import TensorHeader
from pipeline.store.equal_contents import within
from pipeline.store.held import ContentFinding, Held
from pipeline.store.runs_alike import between

BYTES = {"float32": 4, "bfloat16": 2}


def run(
    digests: Mapping[str, str],
    steps: Sequence[int] | None = None,
    name: str = "x",
    dtype: str = "float32",
    base_kind: str | None = "first_step",
    base: str | None = None,
) -> Held:
    """A run whose parameters have, step by step, the contents that these words name: "a b c", "-" where absent."""
    held = {key: tuple(None if one == "-" else f"{key}:{one}" for one in text.split()) for key, text in digests.items()}
    count = len(next(iter(held.values())))
    headers = {}
    for key in held:
        shape = (32,) if key.endswith(("bias", "norm.weight")) else (32, 16)
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        headers[key] = TensorHeader(key, dtype, shape, size * BYTES[dtype])
    return Held(name, tuple(steps or range(0, 100 * count, 100)), held, headers, "run", base, base_kind)


def found(held: Held, constants: Sequence[str] = ()) -> dict[str, list[ContentFinding]]:
    by_code: dict[str, list[ContentFinding]] = {}
    for finding in within(held, lambda digest: digest in constants):
        by_code.setdefault(finding.code, []).append(finding)
    return by_code


def test_steps_that_serve_another_steps_file_and_a_shard_of_it_are_told() -> None:
    held = run({"embed.weight": "z a z z b z", "layers.0.w": "z a z z b z", "layers.1.w": "z a z c b z"})
    codes = found(held)
    assert codes["base_is_a_later_step"][0].steps == (0, 200, 500)
    assert codes["equal_steps"][0].steps == (0, 200, 500)
    (part,) = codes["copied_tensors"]
    assert part.tensors == ("embed.weight", "layers.0.w")
    assert part.text.startswith("At step 300 of x, 2 of 3 parameters") and "steps 0, 200 and 500" in part.text


@pytest.mark.parametrize(
    ("digests", "step"),
    [
        ({"a.w": "a b e d e f", "b.w": "a b c d e f"}, 200),  # from two steps on
        ({"a.w": "a b a d e f", "b.w": "a b c d e f"}, 0),  # from two steps before
        ({"a.w": "a b c d d f", "b.w": "a b c d e f"}, 300),  # from the next step
        ({"a.w": "k k x k k k", "b.w": "a b c d e f"}, 200),  # a frozen tensor in the file of another run
    ],
)
def test_a_copied_shard_is_told_wherever_it_is_from(digests: dict[str, str], step: int) -> None:
    (part,) = found(run(digests))["copied_tensors"]
    assert part.tensors == ("a.w",) and part.severity == "warning"
    assert f"tep {step}" in part.text


@given(
    st.lists(st.sampled_from(["frozen", "moving", "from", "until", "zero"]), min_size=2, max_size=8),
    st.integers(3, 9),
    st.data(),
)
def test_training_as_it_is_gives_no_copy(kinds: list[str], count: int, data: st.DataObject) -> None:
    """Frozen and moving tensors, layers unfrozen or frozen at some step, biases that leave zero and come back to it."""
    digests, constants = {}, []
    for at, kind in enumerate(kinds):
        start = data.draw(st.integers(0, count - 2))
        moving = [f"m{step}" for step in range(count)]
        words = {
            "frozen": ["f"] * count,
            "moving": moving,
            "from": ["f"] * (start + 2) + moving[start + 2 :],
            "until": moving[: count - start - 2] + ["f"] * (start + 2) if count - start > 2 else moving,
            "zero": ["0" if step % 2 else f"m{step}" for step in range(count)],
        }[kind]
        if kind in ("from", "until") and len(set(pairwise(words))) == count - 1:
            words = moving  # it stays once only: what a copy looks like too
        if words.count("f") == 2:
            words = moving
        digests[f"layers.{at}.weight"] = " ".join(words)
        constants.append(f"layers.{at}.weight:0")
    digests["head.weight"] = " ".join(f"m{step}" for step in range(count))
    assert "copied_tensors" not in found(run(digests), constants)


def test_a_small_tensor_of_sixteen_bits_can_come_back_by_itself() -> None:
    digests = {"norm.weight": "a b a b a", "head.weight": "a b c d e"}
    assert "copied_tensors" not in found(run(digests, dtype="bfloat16"))
    assert "copied_tensors" in found(run(digests, dtype="float32"))


def test_a_final_checkpoint_saved_twice_is_a_note_and_equal_checkpoints_alone_are_a_warning() -> None:
    (twice,) = found(run({"a.w": "a b c c"}))["equal_steps"]
    assert twice.severity == "note" and "Steps 200 and 300" in twice.text
    codes = found(run({"a.w": "a a a"}))
    assert list(codes) == ["all_equal"] and codes["all_equal"][0].severity == "warning"


def test_a_warm_up_from_a_rate_of_zero_is_no_wrong_base() -> None:
    assert "base_is_a_later_step" not in found(run({"a.w": "a a b c"}))
    assert "base_is_a_later_step" not in found(run({"a.w": "a b a c"}, base_kind="given"))


def test_gains_that_never_move_are_named_and_a_frozen_layer_is_a_note() -> None:
    still = {f"layers.{i}.norm.weight": "k k k" for i in range(3)}
    moving = {f"layers.{i}.mlp.weight": "a b c" for i in range(3)}
    frozen = {"embed.weight": "k k k", "layers.9.mlp.weight": "k k k", "layers.9.mlp.bias": "k k k"}
    codes = found(run({**still, **moving, **frozen, "norm.weight": "k k k"}, dtype="bfloat16"))
    (never,) = codes["never_changed"]
    assert never.tensors == (*still, "norm.weight") and "bfloat16" in never.text
    assert all(name in never.text for name in still)
    (whole,) = codes["frozen"]
    assert whole.severity == "note" and set(whole.tensors) == set(frozen)


def test_the_base_of_an_adapter_is_frozen_by_design() -> None:
    digests = {"layers.0.q.base_layer.weight": "k k k", "layers.0.q.lora_A.weight": "a b c", "norm.weight": "k k k"}
    codes = found(run(digests))
    assert "never_changed" not in codes and codes["frozen"][0].severity == "note"


def test_a_base_in_an_adapters_file_is_frozen_by_design_and_a_still_factor_is_not() -> None:
    base = {"lm_head.base_layer.weight": "k k k", "classifier.original_module.weight": "k k k"}
    still = {"layers.1.q.lora_A.weight": "k k k"}
    moving = {"layers.0.q.lora_A.weight": "a b c", "layers.1.q.lora_B.weight": "a b c"}
    codes = found(run({**base, **still, **moving}))
    (frozen,), (never,) = codes["frozen"], codes["never_changed"]
    assert frozen.severity == "note" and frozen.tensors == tuple(base) and "the adapter's base" in frozen.text
    assert never.tensors == tuple(still)
    only_saved_whole = found(run({**base, "classifier.weight": "a b c"}))
    assert list(only_saved_whole) == ["frozen"]


def test_parameters_that_stay_at_most_steps_are_named_with_how_often_they_change() -> None:
    (seldom,) = found(run({"norm.weight": "a a a a b b", "head.weight": "a b c d e f"}))["seldom_changed"]
    assert seldom.tensors == ("norm.weight",) and "norm.weight (1 of 5)" in seldom.text


def test_runs_of_one_seed_are_told_with_the_step_at_which_they_part() -> None:
    one = run({"a.w": "a b c d", "b.w": "a b c d"}, name="one")
    other = run({"a.w": "a b c e", "b.w": "a b c d"}, name="other")
    third = run({"a.w": "a x y z", "b.w": "a x y z"}, name="third")
    apart = run({"a.w": "p q r s", "b.w": "p q r s"}, name="apart")
    parted, started = between([one, other, third, apart])
    assert (parted.code, parted.runs, parted.steps) == ("identical_until", ("one", "other"), (0, 100, 200, 300))
    assert parted.tensors == ("a.w",) and "part at step 300" in parted.text
    assert (started.code, started.severity, started.runs) == ("same_start", "note", ("one", "third"))


def test_runs_that_are_equal_throughout_and_a_checkpoint_of_another_run_are_copies() -> None:
    one = run({"a.w": "a b c d"}, name="one")
    (equal,) = between([one, run({"a.w": "a b c d"}, name="copy")])
    assert equal.code == "equal_runs" and equal.severity == "warning"
    (copied,) = between([one, run({"a.w": "p q c s"}, name="other")])
    assert copied.code == "copied_checkpoint" and "tep 200 of one and step 200 of other" in copied.text
    (start,) = between([one, run({"a.w": "d q r s"}, name="tuned")])
    assert start.code == "starts_from" and start.severity == "note"


def test_a_shard_of_another_run_is_told_and_what_neither_run_has_trained_is_not() -> None:
    one = run({"a.w": "a b c", "b.w": "a b c", "f.w": "f f f"}, name="one")
    (copied,) = between([one, run({"a.w": "p b r", "b.w": "p q r", "f.w": "f f f"}, name="two")])
    assert (copied.code, copied.runs, copied.steps, copied.tensors) == (
        "copied_tensors",
        ("one", "two"),
        (100, 100),
        ("a.w",),
    )
    assert "1 of 3 parameters (a.w) at step 100 of two is bit-equal to those at step 100 of one" in copied.text
    assert not list(between([one, run({"a.w": "p q r", "b.w": "u v w", "f.w": "f f f"}, name="two")]))
    assert not list(between([one, run({"a.w": "p b r", "b.w": "p - r", "f.w": "f f f"}, name="two")]))  # one unreadable


@given(st.integers(2, 4), st.integers(2, 5), st.data())
def test_of_runs_that_differ_every_shared_tensor_is_told_once(runs: int, steps: int, data: st.DataObject) -> None:
    names = [f"p{i}.w" for i in range(4)]
    texts = [{name: [f"{r}{s}" for s in range(steps)] for name in names} for r in range(runs)]
    at = data.draw(st.integers(1, steps - 1))
    copied = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    for name in copied:
        texts[1][name][at] = texts[0][name][at]
    held = [run({n: " ".join(t) for n, t in of.items()}, name=str(i)) for i, of in enumerate(texts)]
    (finding,) = between(held)
    assert finding.code == "copied_tensors" and set(finding.tensors) == set(copied)


def test_a_head_that_an_adapter_saves_whole_and_never_changes_is_told_and_copies_of_the_base_are_not() -> None:
    held = run({"q.lora_A.weight": "a b c", "score.weight": "a a a", "lm_head.base_layer.weight": "a a a"})
    codes = found(replace(held, adapter=True))
    assert list(codes) == ["frozen"] and codes["frozen"][0].tensors == ("score.weight",)
    assert "1 parameter of x never changes" in codes["frozen"][0].text


def test_the_scale_of_a_pair_of_factors_is_a_setting_and_not_reported() -> None:
    held = run({"lora_unet_q.lora_up.weight": "a b c", "lora_unet_q.alpha": "a a a"})
    assert not found(held)


def test_a_base_of_another_run_that_is_the_runs_end_is_told() -> None:
    tuned = run({"a.w": "a b c"}, name="tuned", base="base@0", base_kind="given")
    wrong = Held("base", (0,), {"a.w": ("a.w:c",)}, tuned.headers, "base")
    right = Held("base", (0,), {"a.w": ("a.w:a",)}, tuned.headers, "base")
    assert [one.code for one in between([tuned, wrong])] == ["base_is_a_later_step"]
    assert list(between([tuned, right])) == []
