"""Models built around stored checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from analyzers.errors import ParameterError, ResourceError, Unmeasurable
from pipeline.models.build import build_model
from tests.pipeline.models.families import FAMILIES, checkpoint_of, tiny

pytest.importorskip("transformers", reason="transformers (extra hf) builds the models")


def _saved(model: Any, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The parameters and the config as they stand in the files."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", [*FAMILIES, "llama", "gpt2"])
def test_a_model_built_of_a_saved_checkpoint_is_the_one_that_was_saved(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    state, config = _saved(model, tmp_path)
    fused = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layout in (state, fused):  # as files hold it (one key per expert), and as memory does (one stack)
        built = build_model(checkpoint_of(layout, config))
        assert type(built) is type(model)
        assert not built.training
        for (name, ours), (_, theirs) in zip(model.named_parameters(), built.named_parameters(), strict=True):
            assert torch.equal(ours, theirs), name


def test_a_model_is_built_in_the_dtype_it_is_stored_in(tmp_path: Path) -> None:
    state, config = _saved(tiny("olmoe").to(torch.bfloat16), tmp_path)
    assert next(build_model(checkpoint_of(state, config)).parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("missing", ["model.layers.1.", "model.layers.1.mlp.experts.5.up_proj"])
def test_a_layer_without_weights_is_an_error_that_names_them(missing: str, tmp_path: Path) -> None:
    state, config = _saved(tiny("olmoe"), tmp_path)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(missing)}
    with pytest.raises(Unmeasurable, match=r"run@0: .*model\.layers\.1\..*--model package\.module:factory"):
        build_model(checkpoint_of(state, config))


def test_a_config_of_fewer_layers_than_are_stored_is_an_error(tmp_path: Path) -> None:
    state, config = _saved(tiny("olmoe"), tmp_path)
    with pytest.raises(Unmeasurable, match=r"layers that a OlmoeForCausalLM with its config lacks: model\.layers\.1"):
        build_model(checkpoint_of(state, {**config, "num_hidden_layers": 1}))


def test_another_shape_than_the_config_tells_is_an_error(tmp_path: Path) -> None:
    state, config = _saved(tiny("llama"), tmp_path)
    with pytest.raises(Unmeasurable, match="transformers cannot build LlamaForCausalLM"):
        build_model(checkpoint_of(state, {**config, "vocab_size": 65}))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "no config.json"),
        ({"hidden_size": 8}, "names no model_type"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}, r"quantized \(gptq\)"),
        ({"model_type": "llama", "hidden_size": "wide"}, "is not a valid llama config"),
    ],
)
def test_a_config_that_cannot_serve_is_said_with_the_way_out(config: dict[str, Any], said: str) -> None:
    with pytest.raises(Unmeasurable, match=said):
        build_model(checkpoint_of({"w": torch.zeros(2, 2)}, config))


def test_an_architecture_that_a_newer_transformers_may_know_is_not_given_up_for_good() -> None:
    """What is `Unmeasurable` is stored and never tried again; this is tried again by the next command."""
    checkpoint = checkpoint_of({"w": torch.zeros(2, 2)}, {"model_type": "no_such_architecture"})
    with pytest.raises(
        ResourceError, match="does not know the architecture 'no_such_architecture'; give the model yourself"
    ):
        build_model(checkpoint)


def test_code_that_a_config_names_is_neither_fetched_nor_run(tmp_path: Path) -> None:
    state, config = _saved(tiny("llama"), tmp_path)
    hostile = {
        **config,
        "auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"},
        "attn_implementation": "evil/kernels",
        "_attn_implementation": "evil/kernels",
        "_name_or_path": "evil/model",
    }
    assert build_model(checkpoint_of(state, hostile)).config._attn_implementation == "eager"


def make_linear(config: dict[str, Any]) -> torch.nn.Module:
    """The factory of the tests below: what a user would write."""
    return torch.nn.Sequential(torch.nn.Linear(3, config.get("out", 2)))


def wants_a_width(config: dict[str, Any]) -> torch.nn.Module:
    """A factory that reads what the config has not."""
    return torch.nn.Linear(config["width"], 2)


FACTORY = f"{__name__}:make_linear"


def test_a_factorys_model_gets_the_stored_parameters() -> None:
    state = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.ones(2)}
    built = build_model(checkpoint_of(state, {}), FACTORY)
    assert torch.equal(built(torch.ones(1, 3)), torch.tensor([[4.0, 13.0]]))
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}  # as DataParallel saves it
    assert torch.equal(build_model(checkpoint_of(wrapped, {}), FACTORY)(torch.ones(1, 3)), torch.tensor([[4.0, 13.0]]))


def test_a_factorys_model_that_does_not_fit_the_checkpoint_is_an_error() -> None:
    state = {"0.weight": torch.zeros(2, 3)}
    with pytest.raises(ParameterError, match=r"1 parameters that the checkpoint lacks: 0\.bias"):
        build_model(checkpoint_of(state, {}), FACTORY)
    with pytest.raises(ParameterError, match=r"0\.weight has shape \(2, 3\).*needs \(4, 3\)"):
        build_model(checkpoint_of({**state, "0.bias": torch.zeros(2)}, {"out": 4}), FACTORY)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("linear", "write package.module:factory"),
        ("no_such_package.here:make", "cannot be imported"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        (f"{__name__}:make_linaer", "has no 'make_linaer'; did you mean 'make_linear'"),
        ("tests.pipeline.models.raising:make", "importing .* raises ZeroDivisionError"),
        (f"{__name__}:wants_a_width", "called with its config, raised KeyError: 'width' .*no config.json"),
        (f"{__name__}:FACTORY", "not a function"),
        ("builtins:dict", "returned a dict"),
    ],
)
def test_a_factory_that_is_none_is_an_error(factory: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        build_model(checkpoint_of({"w": torch.zeros(2)}, {}), factory)


def test_a_model_larger_than_memory_gives_the_same_output_from_disk(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate reads the layers as they are needed")
    model = tiny("olmoe", num_hidden_layers=6)
    state, config = _saved(model, tmp_path)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    built = build_model(checkpoint_of(state, config), memory_bytes=size // 2)
    assert "disk" in set(built.hf_device_map.values())
    tokens = torch.arange(12).reshape(2, 6) + 3
    with torch.no_grad():
        assert torch.equal(built(tokens).logits, model(tokens).logits)
