"""No layer of a real architecture is taken for an adapter's factor or a part of a quantised weight."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
import transformers as t

from pipeline.archive.types import Layout
from tests.pipeline.archive.tiny import assert_accounted, layout_of

LOW_RANK = ("albert", "deepseek_v2", "deepseek_v3", "minicpm3", "rwkv", "zamba2")
SEPARABLE = ("mobilenet_v2", "squeezebert", "convnext")
TABLES_AND_SCALES = ("swin", "swinv2", "encodec", "fsmt", "gpt_oss", "lxmert", "speecht5")
PARTS = ("LoRA", "learned prompt", "quantised", "of a parametrised weight")


def on_meta(model_type: str) -> torch.nn.Module | None:
    """The model of the default config without memory for its weights; None where it cannot be made."""
    for auto in (t.AutoModelForCausalLM, t.AutoModelForSeq2SeqLM, t.AutoModelForMaskedLM, t.AutoModel):
        with suppress(Exception), torch.device("meta"):  # some types have no such head, or want further packages
            config: Any = t.AutoConfig.for_model(model_type)
            if isinstance(getattr(config, "num_hidden_layers", None), int):
                config.num_hidden_layers = min(config.num_hidden_layers, 2)
            return auto.from_config(config)
    return None


def described(model: torch.nn.Module) -> Layout:
    layout = layout_of(model.state_dict())
    assert_accounted(layout)
    return layout


def taken_for_parts(layout: Layout) -> list[str]:
    return [f"{u.tensor}: {u.reason}" for u in layout.unmeasured if any(part in u.reason for part in PARTS)]


@pytest.mark.parametrize("model_type", [*LOW_RANK, *SEPARABLE, *TABLES_AND_SCALES])
def test_real_layers_are_measured(model_type: str) -> None:
    if model_type not in t.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    model = on_meta(model_type)
    assert model is not None
    layout = described(model)
    norms = model_type in ("encodec", "speecht5")  # their convolutions are weight-normalised
    assert [line for line in taken_for_parts(layout) if not (norms and "parametri" in line)] == []
    assert layout.matrices


@pytest.mark.slow
def test_real_layers_of_every_architecture_are_measured() -> None:
    models = 0
    for model_type in sorted(t.CONFIG_MAPPING.keys()):
        if (model := on_meta(model_type)) is not None:
            models += 1
            parts = [line for line in taken_for_parts(described(model)) if "parametri" not in line]
            assert not parts, (model_type, parts[:5])
    assert models > 300
