"""Which names of a folder are one series, and the step of each."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.series import NamedStep, read_names

SERIES_WORDS = (
    *("step", "epoch", "epoch2", "epoch3", "epoch_no_thresh", "ckpt", "model", "net", "actor", "critic", "ema_0.9999"),
    *(
        "lr0.1_step",
        "seed3_step",
        "pythia-70m-step",
        "net2-epoch",
        "rl_model",
        "v2.1_iter",
        "resnet50",
        "2024-01-02_step",
    ),
)
TRAILING_WORDS = ("", "_ema", "-decay", "_net_G", "_net_D", "_steps", "-unsharded", "_lr1e-4", "_fp16")
FORMATS = ("{}", "{:06d}", "{:_}")

forms = st.tuples(st.sampled_from(SERIES_WORDS), st.sampled_from(("", "-", "_", "=")), st.sampled_from(TRAILING_WORDS))
steps = st.lists(st.integers(1, 60).map(lambda n: n * 500), min_size=2, max_size=5, unique=True)


def _name(form: tuple[str, str, str], number_format: str, step: int) -> str:
    word, separator, trailing = form
    # A number that follows another one needs something between them.
    between = separator or ("_" if word[-1].isdigit() else "")
    return f"{word}{between}{number_format.format(step)}{trailing}"


def _found(names: list[str]) -> dict[str, NamedStep]:
    return read_names(names)


@given(form=forms, number_format=st.sampled_from(FORMATS), numbers=steps)
def test_every_checkpoint_of_a_series_gets_its_own_step(
    form: tuple[str, str, str], number_format: str, numbers: list[int]
) -> None:
    if number_format == "{:_}" and not form[0].endswith("step"):
        number_format = "{}"  # separated thousands need the word of a step before them
    names = [_name(form, number_format, step) for step in numbers]
    found = _found(names)
    assert [found[name].step for name in names] == numbers
    assert len({found[name].key for name in names}) == 1


@given(
    kinds=st.lists(forms, min_size=2, max_size=4, unique_by=lambda f: (f[0], f[2])),
    number_format=st.sampled_from(FORMATS[:2]),
    data=st.data(),
)
def test_series_never_mix_and_never_change_each_others_steps(
    kinds: list[tuple[str, str, str]], number_format: str, data: st.DataObject
) -> None:
    series = [[_name(form, number_format, step) for step in data.draw(steps)] for form in kinds]
    together = _found([name for names in series for name in names])
    keys = []
    for names in series:
        alone = _found(names)
        assert {name: together[name].step for name in names} == {name: alone[name].step for name in names}
        keys.append({together[name].key for name in names})
        assert len(keys[-1]) == 1
    assert len(set.union(*keys)) == len(keys)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["checkpoint_1_500", "checkpoint_1_1000", "checkpoint_2_1500"], [500, 1000, 1500]),
        (["checkpoint_3_15000"], [15000]),
        (["model000100", "model000200"], [100, 200]),
        (["ema_0.9999_010000", "ema_0.9999_020000"], [10_000, 20_000]),
        (["10kSteps", "1.5MSteps"], [10_000, 1_500_000]),
        (["step100_000", "step-1_000_000", "step_500"], [100_000, 1_000_000, 500]),
        (["model_1_000", "model_1_500", "model_12_000"], [1000, 1500, 12_000]),
        (["rl_model_10000_steps", "rl_model_20000_steps"], [10_000, 20_000]),
        (["500_iter"], [500]),
        (["50epochs"], [50]),
        (["5_net_G", "10_net_G"], [5, 10]),
        (["epoch=3-step=500-val_loss=0.12", "epoch=4-step=600-val_loss=0.10"], [500, 600]),
        (["epoch=3-val_loss=0.12", "epoch=4-val_loss=0.10"], [3, 4]),
        (["step3000-tokens12B", "step6000-tokens25B"], [3000, 6000]),
        (["100_steps_5_epochs", "200_steps_10_epochs"], [100, 200]),
        (["run1_epoch_3", "run1_epoch_4"], [3, 4]),
        (["global_step10-lr1e-4", "global_step20-lr1e-4"], [10, 20]),
        (["20240102_143000_step_5", "20240102_150000_step_6"], [5, 6]),
        (["ckpt_e1_s200", "ckpt_e2_s400", "ckpt_e3_s500"], [200, 400, 500]),
        (["E1_I3000", "E2_I6000"], [3000, 6000]),
        (["step-1B", "step-10B"], [10**9, 10**10]),
        (["llama-step-240k-503b", "llama-step-715k-1.5T"], [240_000, 715_000]),
        (["gpt-step=100-consumed_samples=800.0", "gpt-step=200-consumed_samples=1600.0"], [100, 200]),
        (["epoch=0.5-step=100", "epoch=1.0-step=200"], [100, 200]),
        (["epoch=1.0", "epoch=2.0"], [1, 2]),
        (["net-epoch-01-of-50", "net-epoch-02-of-50"], [1, 2]),
        (["1672531200_step_5", "1672534800_step_6"], [5, 6]),
        (["epoch_1-3f2a9c81", "epoch_2-3f2a9c81"], [1, 2]),
    ],
)
def test_names_of_trainers_give_their_steps(names: list[str], numbers: list[int]) -> None:
    found = _found(names)
    assert [found[name].step for name in names] == numbers
    assert len({found[name].key for name in names}) == 1


@pytest.mark.parametrize(
    "form",
    ["lr{}", "model_lr_{}", "seed{}", "seed_{}", "lora_r{}", "llama-{}b", "w_{}bit", "fp{}", "fold_{}", "layer{}",
     "v{}", "mp_rank_0{}_model", "consolidated.0{}", "model_lr{}e-4", "model_v2.{}", "dropout0.{}", "2024-01-0{}",
     "run_{}", "resnet18-0676ba6{}", "{}f2a9c81", "model_167253120{}"],
)  # fmt: skip
def test_a_number_that_describes_the_run_is_no_step_though_it_varies(form: str) -> None:
    assert _found([form.format(n) for n in (1, 2, 4)]) == {}


def test_seeds_beside_epochs_are_no_steps() -> None:
    found = _found([f"e{epoch}_s{seed}" for epoch in (10, 20) for seed in (1, 2)])
    assert {one.key for one in found.values() if one.step in (10, 20)} == {one.key for one in found.values()}
    assert sorted(one.step for one in found.values()) == [10, 10, 20, 20]


def test_a_varying_number_that_no_sibling_shares_the_series_of_is_no_step() -> None:
    assert _found(["resnet50-0676ba61", "resnet18-f37072fd"]) == {}


def test_what_only_varies_is_a_guess_and_what_a_word_calls_a_step_is_none() -> None:
    found = _found(["resnet18", "resnet50", "epoch_1", "epoch_2"])
    assert {name: one.guess for name, one in found.items()} == {
        **dict.fromkeys(("resnet18", "resnet50"), True),
        **dict.fromkeys(("epoch_1", "epoch_2"), False),
    }


def test_numbered_folders_are_models_unless_they_look_like_steps() -> None:
    assert read_names(["model_1", "model_2"], are_files=False) == {}
    found = read_names(["actor_100", "actor_200", "net_000001", "net_000002"], are_files=False)
    assert [one.step for one in found.values()] == [100, 200, 1, 2]


def test_a_size_beside_the_step_is_the_series() -> None:
    found = _found(["pythia-70m-step100", "pythia-160m-step100"])
    assert {one.series for one in found.values()} == {"pythia-70m", "pythia-160m"}
    assert {one.step for one in found.values()} == {100}


def test_iterations_that_begin_anew_each_epoch_are_not_one_series() -> None:
    names = [f"epoch_{epoch}_iter_{iteration}" for epoch, iteration in product((1, 2), (500, 1000))]
    assert {one.series for one in _found(names).values()} == {"epoch_1", "epoch_2"}


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("epoch_3", "epoch"),
        ("50epochs", "epoch"),
        ("episode_7", "episode"),
        ("checkpoint-500", "step"),
        ("epoch=3-step=500", "step"),
        ("model_000100", "step"),
    ],
)
def test_the_word_tells_what_is_counted(name: str, unit: str) -> None:
    assert _found([name])[name].unit == unit
