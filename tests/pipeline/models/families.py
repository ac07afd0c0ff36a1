"""Tiny random models of the mixture-of-experts families, as transformers builds them, and checkpoints in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from analyzers.models import ParameterInfo, WholeCheckpoint

_TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DEEPSEEK: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
}
_NUM_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2}

FAMILIES: dict[str, dict[str, Any]] = {
    "olmoe": _NUM_EXPERTS,
    "mixtral": _LOCAL_EXPERTS,
    "qwen2_moe": {**_NUM_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_NUM_EXPERTS, "moe_intermediate_size": 16, "head_dim": 8},
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "gpt_oss": {**_LOCAL_EXPERTS, "head_dim": 8},
    "phimoe": _LOCAL_EXPERTS,
    "granitemoe": _LOCAL_EXPERTS,
    "jetmoe": {**_LOCAL_EXPERTS, "kv_channels": 8},
    "switch_transformers": {
        "num_experts": 8,
        "d_model": 32,
        "d_ff": 48,
        "d_kv": 8,
        "num_layers": 2,
        "num_heads": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "expert_capacity": 64,
    },
}


def tiny(model_type: str, seed: int = 0, **settings: Any) -> Any:
    """A random model of a family (or of any other type), in eval mode."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[model_type](**{**_TINY, **FAMILIES.get(model_type, {}), **settings})
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return auto.from_config(config, attn_implementation="eager").eval()


def checkpoint_of(state: Mapping[str, torch.Tensor], config: Mapping[str, Any], step: int = 0) -> WholeCheckpoint:
    """A checkpoint of tensors in memory."""
    infos = tuple(
        ParameterInfo(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), name) for name, t in state.items()
    )
    return WholeCheckpoint("run", step, f"key-{step}", dict(config), infos, lambda name: state[name])
