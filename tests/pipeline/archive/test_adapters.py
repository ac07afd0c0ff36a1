"""An adapter's Δ, rebuilt from its saved files alone, is what PEFT's own merge adds to the base."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as t
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from pipeline.archive.adapters import scale_of
from pipeline.archive.bases import match_base
from pipeline.archive.circuits import circuits
from pipeline.archive.layout import describe
from pipeline.archive.types import Layout
from tests.pipeline.archive.tiny import PROPERTY, State, assert_accounted, checkpoint, layout_of, matrices

D, H, F, VOCAB = 16, 4, 24, 30
BASIC: dict[str, Any] = {
    "hidden_size": D, "num_hidden_layers": 2, "num_attention_heads": H, "intermediate_size": F, "vocab_size": VOCAB,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


class Convolutions(torch.nn.Module):
    """A net of convolutions and torch's own attention, which PEFT adapts as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3)
        self.conv2 = torch.nn.Conv1d(8, 6, 5)
        self.point = torch.nn.Conv2d(8, 8, 1)
        self.grouped = torch.nn.Conv2d(8, 8, 3, groups=4)
        self.self_attn = torch.nn.MultiheadAttention(D, H)
        self.config = t.PretrainedConfig()


MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**BASIC)),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(n_embd=D, n_layer=2, n_head=H, vocab_size=VOCAB, n_positions=8, bos_token_id=1, eos_token_id=2)
    ),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**BASIC, num_key_value_heads=2)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**BASIC)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**BASIC, num_key_value_heads=2)),
    "vit": lambda: t.ViTForImageClassification(
        t.ViTConfig(
            hidden_size=D, num_hidden_layers=2, num_attention_heads=H, intermediate_size=F, image_size=16, patch_size=8
        )
    ),
    "net": Convolutions,
}


def saved(model_name: str, folder: Path, **settings: Any) -> tuple[Any, State, State, dict[str, Any]]:
    """(PEFT model, base's tensors, adapter's tensors and config as saved) with every factor random."""
    torch.manual_seed(0)
    model = MODELS[model_name]()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_()
            if "modules_to_save" in name:
                parameter.add_(1.0)
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    return adapted, base, load_file(folder / "adapter_model.safetensors"), config


def assert_delta_is_peft_s(model_name: str, folder: Path, **settings: Any) -> Layout:
    adapted, base, factors, adapter = saved(model_name, folder, **settings)
    config = adapted.get_base_model().config.to_dict()
    layout = describe(checkpoint(factors, adapter=adapter), config)
    assert_accounted(layout)
    left_out = [u for u in layout.unmeasured if "lora_" in u.tensor and ".base_layer.out_proj." not in u.tensor]
    assert not left_out
    base_layout = layout_of(base, config)
    merged_state = adapted.merge_and_unload().state_dict()
    merged = matrices(layout_of(merged_state, config), merged_state)
    before = matrices(base_layout, base)
    found = matrices(layout, factors)
    matched = match_base(layout, base_layout)
    assert not matched.unmatched
    changed = {name for name in before if not np.array_equal(before[name], merged[name])}
    # an unembedding tied to an adapted embedding moves with it in PEFT's merge; torch attention's out_proj: below
    assert changed <= set(found) | {"lm_head", "self_attn.out_proj"}
    for spec, counterpart in matched.pairs:
        assert spec.orientation == counterpart.orientation or spec.role == "weight", spec.name
        assert (spec.kind, spec.layer) == (counterpart.kind, counterpart.layer), spec.name
        whole = found[spec.name] + (before[spec.name] if spec.role == "delta" else 0)
        # PEFT multiplies and adds in float32: rank ≤ 8 products of N(0, 1) entries, so a few ulp of ≈ 100
        np.testing.assert_allclose(whole, merged[spec.name], rtol=2e-6, atol=2e-5, err_msg=spec.name)
    return layout


ALL_LINEARS = "all-linear"


@pytest.mark.parametrize("model_name", ["bert", "gpt2", "llama", "gpt_neox", "phi3", "vit"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_delta_of_all_linears_is_what_peft_merges(model_name: str, use_rslora: bool, tmp_path: Path) -> None:
    layout = assert_delta_is_peft_s(
        model_name, tmp_path, r=4, lora_alpha=6, target_modules=ALL_LINEARS, use_rslora=use_rslora
    )
    assert {spec.role for spec in layout.matrices} <= {"delta", "weight"}
    assert sum(spec.role == "delta" for spec in layout.matrices) >= 12


def test_rank_and_alpha_patterns_are_peft_s(tmp_path: Path) -> None:
    layout = assert_delta_is_peft_s(
        "llama",
        tmp_path,
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 3, "v_proj": 5, "proj": 7},
        alpha_pattern={r"model\.layers\.0\.mlp\.down_proj": 9, "v_proj": 1},
    )
    ranks = {spec.name: spec.recipe.scale for spec in layout.matrices if hasattr(spec.recipe, "scale")}
    assert ranks["layers.0.mlp.down_proj"] == 9 / 4
    assert ranks["layers.1.self_attn.v_proj"] == 1 / 3


@pytest.mark.parametrize(
    ("model_name", "target"), [("llama", "embed_tokens"), ("gpt2", "wte"), ("bert", "word_embeddings")]
)
def test_an_embedding_s_delta_stands_in_the_orientation_of_embeddings(
    model_name: str, target: str, tmp_path: Path
) -> None:
    layout = assert_delta_is_peft_s(model_name, tmp_path, r=3, lora_alpha=5, target_modules=[target])
    (delta,) = (spec for spec in layout.matrices if spec.role == "delta")
    assert (delta.shape, delta.kind, delta.orientation) == ((D, VOCAB), "embedding", "in_out")


def test_modules_to_save_replace_whole_matrices_under_their_own_names(tmp_path: Path) -> None:
    layout = assert_delta_is_peft_s(
        "bert", tmp_path, r=2, target_modules=["query"], modules_to_save=["classifier", "pooler"], bias="all"
    )
    roles = {spec.name: spec.role for spec in layout.matrices}
    assert roles["classifier"] == roles["pooler.dense"] == "weight"
    assert any(u.reason.endswith("a bias") for u in layout.unmeasured)


def test_convolutions_and_torch_attention_are_adapted_too(tmp_path: Path) -> None:
    layout = assert_delta_is_peft_s(
        "net", tmp_path, r=2, lora_alpha=3, target_modules=["conv1", "conv2", "point", "self_attn"]
    )
    shapes = {spec.name: spec.shape for spec in layout.matrices}
    assert shapes["conv1"] == (8, 27)
    assert shapes["conv2"] == (6, 40)
    assert shapes["self_attn.in_proj.k"] == (D, D)


def test_torch_attention_s_out_proj_is_listed_since_peft_applies_it_twice(tmp_path: Path) -> None:
    adapted, base, factors, adapter = saved("net", tmp_path, r=2, lora_alpha=3, target_modules=["self_attn"])
    layout = describe(checkpoint(factors, adapter=adapter))
    assert [u.tensor for u in layout.unmeasured] == [name for name in factors if "out_proj" in name]
    assert all("twice" in u.reason for u in layout.unmeasured)
    b, a = (factors[f"base_model.model.self_attn.base_layer.out_proj.lora_{f}.weight"] for f in "BA")
    once = base["self_attn.out_proj.weight"] + 1.5 * b @ a
    merged = adapted.merge_and_unload().self_attn.out_proj.weight
    assert not torch.allclose(merged, once, atol=1e-3), "PEFT merges it once now: measure it"


def test_a_grouped_convolution_is_listed(tmp_path: Path) -> None:
    _, _, factors, adapter = saved("net", tmp_path, r=4, lora_alpha=3, target_modules=["grouped"])
    layout = describe(checkpoint(factors, adapter=adapter))
    assert not layout.matrices
    assert all("grouped convolution" in u.reason for u in layout.unmeasured)


@pytest.mark.parametrize("start", ["gaussian", "orthogonal", "eva", True, False])
def test_starts_that_leave_the_base_alone_are_measured(start: Any, tmp_path: Path) -> None:
    assert_delta_is_peft_s("bert", tmp_path, r=2, target_modules=["query"], init_lora_weights=start)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_starts_that_change_the_base_are_listed_and_would_have_been_wrong(start: str, tmp_path: Path) -> None:
    adapted, base, factors, adapter = saved("bert", tmp_path, r=2, target_modules=["query"], init_lora_weights=start)
    layout = describe(checkpoint(factors, adapter=adapter))
    assert not [spec for spec in layout.matrices if spec.role == "delta"]
    assert all("not Δ relative to the original base" in u.reason for u in layout.unmeasured if "lora_" in u.tensor)
    changed = adapted.unload().state_dict()["bert.encoder.layer.0.attention.self.query.weight"]
    assert not torch.allclose(changed, base["bert.encoder.layer.0.attention.self.query.weight"], atol=1e-3)


def test_a_converted_pissa_is_an_ordinary_adapter_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["bert"]()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights="pissa"))
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "end", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    adapter = json.loads((tmp_path / "end" / "adapter_config.json").read_text())
    factors = load_file(tmp_path / "end" / "adapter_model.safetensors")
    found = matrices(describe(checkpoint(factors, adapter=adapter)), factors)
    merged = adapted.merge_and_unload().state_dict()
    for layer in range(2):
        path = f"encoder.layer.{layer}.attention.self.query"
        full = base[f"bert.{path}.weight"].double().numpy() + found[path]
        # float32 SVD of the base inside PEFT: its residual is right to ≈ 1e-6 of σ1 ≈ 0.2
        np.testing.assert_allclose(full, merged[f"bert.{path}.weight"].double().numpy(), atol=1e-5)


def test_dora_is_listed_with_the_way_out(tmp_path: Path) -> None:
    _, _, factors, adapter = saved("bert", tmp_path, r=2, target_modules=["query"], use_dora=True)
    layout = describe(checkpoint(factors, adapter=adapter))
    assert_accounted(layout)
    assert all("merge_and_unload" in u.reason for u in layout.unmeasured if "lora_" in u.tensor)
    adapter["use_dora"] = False  # the magnitudes in the file say it all the same
    again = describe(checkpoint(factors, adapter=adapter))
    assert not [spec for spec in again.matrices if spec.role == "delta"]


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "IA3Config"])
def test_other_adapters_are_listed_as_not_supported(kind: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"target_modules": ["query", "output.dense"]}
    if kind == "IA3Config":
        settings["feedforward_modules"] = ["output.dense"]
    peft.get_peft_model(MODELS["bert"](), getattr(peft, kind)(**settings)).save_pretrained(tmp_path)
    adapter = json.loads((tmp_path / "adapter_config.json").read_text())
    layout = describe(checkpoint(load_file(tmp_path / "adapter_model.safetensors"), adapter=adapter))
    assert_accounted(layout)
    assert not layout.matrices
    assert all("not supported yet" in u.reason for u in layout.unmeasured)


def test_experts_adapted_as_bare_parameters_are_listed(tmp_path: Path) -> None:
    model = t.MixtralForCausalLM(t.MixtralConfig(**BASIC, num_key_value_heads=2, num_local_experts=3))
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    )
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    adapter = json.loads((tmp_path / "adapter_config.json").read_text())
    factors = load_file(tmp_path / "adapter_model.safetensors")
    layout = describe(checkpoint(factors, adapter=adapter))
    assert_accounted(layout)
    assert {spec.kind for spec in layout.matrices} == {"attention.query"}
    assert all("target_parameters" in u.reason for u in layout.unmeasured)


BASE: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
A, B = "base_model.model.fc.lora_A.weight", "base_model.model.fc.lora_B.weight"


@pytest.mark.parametrize(
    ("state", "adapter", "reason"),
    [
        ({A: (2, 5)}, {}, "no lora_B"),
        ({B: (3, 2)}, {}, "no lora_A"),
        ({A: (2, 5), B: (3, 4)}, {}, "ranks differ"),
        ({A: (4, 5), B: (3, 4)}, {}, "rank 4 in the file, 2 by adapter_config.json"),
        ({A: (0, 5), B: (3, 0)}, {}, "positive rank"),
        ({A: (2, 5), B: (3, 2)}, {"r": "two"}, "'two'"),
        ({A: (2, 5), B: (3, 2)}, {"lora_alpha": None}, "lora_alpha None"),
        ({A: (2, 5), B: (3, 2)}, {"rank_pattern": {"fc(": 2}}, "not a regular expression"),
        ({A: (2, 5), B: (3, 2)}, {"rank_pattern": {"(.+)+x": 2}}, "may never end"),
        ({A: (2, 5), B: (3, 2)}, {"alpha_pattern": [1]}, "pattern table"),
        ({A: (2, 5), B: (3, 2)}, {"init_lora_weights": "novel"}, "'novel' is unknown"),
        ({A: (2, 5), B: (3, 2)}, {"use_qalora": True}, "use_qalora"),
        ({A: (2, 5), B: (3, 2)}, {"layer_replication": [[0, 2]]}, "layer map"),
        ({A: (2, 5), B: (3, 2)}, {"peft_type": "ADALORA"}, "ADALORA"),
        ({A: (2,), B: (3, 2)}, {}, "(2,)"),
    ],
)  # fmt: skip
def test_a_broken_adapter_says_what_is_wrong_and_measures_nothing(
    state: Mapping[str, tuple[int, ...]], adapter: Mapping[str, Any], reason: str
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in state.items()}
    layout = describe(checkpoint(tensors, adapter=BASE | dict(adapter)))
    assert not layout.matrices
    assert {u.tensor for u in layout.unmeasured} == set(state)
    assert all(reason in u.reason for u in layout.unmeasured), layout.unmeasured


def test_one_broken_module_does_not_cost_the_others() -> None:
    other = {name.replace("fc", "out"): torch.zeros(shape) for name, shape in ((A, (2, 5)), (B, (3, 2)))}
    layout = describe(checkpoint({A: torch.zeros(2, 5)} | other, adapter=BASE))
    assert [spec.name for spec in layout.matrices] == ["out"]


def test_a_named_adapter_and_keys_of_raw_state_dicts_are_read_the_same() -> None:
    plain = {A: torch.zeros(2, 5), B: torch.zeros(3, 2)}
    raw = {name.replace(".weight", ".default.weight"): tensor for name, tensor in plain.items()}
    assert [s.name for s in describe(checkpoint(raw, adapter=BASE)).matrices] == ["fc"]
    embedding = {
        "base_model.model.wte.lora_embedding_A.default": torch.zeros(2, 30),
        "base_model.model.wte.lora_embedding_B.default": torch.zeros(8, 2),
    }
    (spec,) = describe(checkpoint(embedding, adapter=BASE)).matrices
    assert (spec.name, spec.shape) == ("wte", (8, 30))


ASCII = "abz019._-/~(*+ "
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(ASCII, max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["fc", "(", "r", "x*"]), inner, max_size=2)
    ),
    max_leaves=4,
)
SETTINGS = [
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "use_dora",
    "target_parameters", "fan_in_fan_out", "layer_replication", "model_type", "num_attention_heads", "text_config",
]  # fmt: skip


@PROPERTY
@given(
    adapter=st.dictionaries(st.sampled_from(SETTINGS), JSON), config=st.dictionaries(st.sampled_from(SETTINGS), JSON)
)
def test_whatever_the_configs_hold_every_tensor_is_measured_or_listed(
    adapter: dict[str, Any], config: dict[str, Any]
) -> None:
    names = ("fc", "self_attn.qkv_proj", "attention.query_key_value", "mlp.experts")
    state = {name.replace("fc", n): torch.zeros(s) for n in names for name, s in ((A, (2, 4)), (B, (12, 2)))}
    assert_accounted(describe(checkpoint(state, adapter=adapter), config))
    full = {"mlp.experts.gate_up_proj": torch.zeros(2, 8, 4), "h.0.attn.c_attn.weight": torch.zeros(4, 12)}
    layout = describe(checkpoint(full, config))
    assert_accounted(layout)
    circuits(layout, config)


NAMES = st.sampled_from(
    ["q_proj", "v_proj", "model.layers.1.self_attn.q_proj", "layers.0.mlp.up_proj", "up", r"layers\.\d+.*"]
)


@PROPERTY
@given(
    ranks=st.dictionaries(NAMES, st.integers(1, 9), max_size=3),
    alphas=st.dictionaries(NAMES, st.integers(1, 99), max_size=3),
    module=st.sampled_from(["model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head"]),
    rslora=st.booleans(),
)
def test_the_scale_follows_the_first_pattern_that_peft_would_take(
    ranks: dict[str, int], alphas: dict[str, int], module: str, rslora: bool
) -> None:
    def first(patterns: dict[str, int], default: int) -> int:
        return patterns.get(peft.utils.other.get_pattern_key(patterns, module), default)

    rank, alpha = first(ranks, 8), first(alphas, 16)
    config = {"r": 8, "lora_alpha": 16, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora}
    assert scale_of(module, config) == (rank, alpha / (rank**0.5 if rslora else rank))
