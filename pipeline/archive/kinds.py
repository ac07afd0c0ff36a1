"""What part a matrix plays in its model, told from its canonical name by tables of the families' words.

The last component of a name decides, in the light of the ones before it: ``q`` is a query only inside an attention
block, ``c_proj`` leaves an attention block or an MLP. docs/parameters.md prints the same tables for readers.
"""

from __future__ import annotations

import re
from itertools import pairwise


def _table(**words: str) -> dict[str, str]:
    """{"a b": kind} spread to {"a": kind, "b": kind}; ``attention_query`` in an argument's name is attention.query."""
    return {word: kind.replace("_", ".") for kind, many in words.items() for word in many.split()}


EXPERT = _table(
    expert_gate="gate_proj gate w1 wi_0 linear_gate W_gate",
    expert_up="up_proj up w3 v1 wi wi_1 fc1 c_fc linear_v W_in",
    expert_down="down_proj down w2 wo fc2 c_proj linear_out W_out",
)
"""Inside one expert."""

ANYWHERE = _table(
    attention_query="q_proj query q_lin to_q wq Wq q_attn query_proj q_a_proj q_b_proj linear_q q_linear wq_a wq_b"
    " query_projection W_Q",
    attention_key="k_proj key k_lin to_k wk Wk key_proj linear_k k_linear key_projection W_K _W_K",
    attention_value="v_proj value v_lin to_v wv Wv value_proj linear_v v_linear value_projection W_V _W_V",
    attention_kv="kv_a_proj_with_mqa kv_a_proj kv_b_proj kv_proj to_kv wkv_a wkv_b",
    attention_qkv="c_attn Wqkv wqkv qkv_proj query_key_value qkv to_qkv att_proj",
    attention_output="o_proj attn_out to_out W_O",
    mlp_gate="gate_proj wi_0",
    mlp_up="up_proj c_fc dense_h_to_4h lin1 fc_in linear1 wi wi_1",
    mlp_down="down_proj dense_4h_to_h lin2 fc_out linear2 ff_out weights_out",
    mlp_other="gate_up_proj weights_in ff_proj dense_gate_up",
    router="router moe_gate",
    unembedding="lm_head embed_out unembed unembedding W_U vocab_projector generator_lm_head",
    head="classifier score qa_outputs seq_relationship logits_proj",
    embedding="wte wpe shared embed emb embedding embeddings embed_in tok_emb pos_emb tokens_embed positions_embed"
    " pos_embed relative_attention_bias relative_position_bias_table rel_pos_h rel_pos_w W_E W_pos"
    " W_token_type",
)
"""Words that need no context."""

IN_ATTENTION = _table(
    attention_query="q",
    attention_key="k",
    attention_value="v",
    attention_qkv="in_proj",
    attention_output="c_proj dense out_proj out_lin wo Wo o out proj linear_out"
    " output_projection output_proj out_projection",
)
"""Below a component that names attention."""

IN_MLP = _table(
    mlp_gate="w1 W_gate",
    mlp_up="fc1 w3 W_in intermediate up",
    mlp_down="fc2 w2 c_proj wo Wo output_linear W_out down",
)
"""Inside a block, outside its attention."""

TAILS = _table(
    mlp_up="intermediate.dense ffn.dense1 mlp.dense1",
    mlp_down="output.dense ffn.dense2 mlp.dense2",
    mlp_gate="gate_up_proj.gate Wi.gate weights_in.gate input_linear.gate dense_h_to_4h.gate",
    router="mlp.gate moe.gate feed_forward.gate router.layer router.classifier router.proj",
    unembedding="predictions.decoder lm_head.decoder",
) | {f"{fused}.up": "mlp.up" for fused in ("gate_up_proj", "Wi", "weights_in", "input_linear", "dense_h_to_4h")}
"""Two components that mean something only together."""

WHOLE = _table(unembedding="decoder output proj_out", head="head fc")
"""Whole canonical names: the ends of a model."""

_ATTENTION = re.compile(r"attn|attention|^(?:mha|sa|sa_heads?)$", re.IGNORECASE)
_EMBEDDING = re.compile(
    r"^(?:.*_)?(?:embed|emb)_(?:tokens|positions)$|^(?:.*_)?(?:embed|emb|embedding)s?_(?:table|matrix|lookup)$"
    r"|^(?:.*_)?(?:word|words|token|tok|tokens|position|positions|positional|pos|type|segment|entity|char|label|class|"
    r"time|task|query|domain|lang|temporal|spatial)_(?:embed|embedding|embeddings|emb)$"
)
_RECURRENT = re.compile(r"^(?:weight_(?:ih|hh|hr)(?:_l\d+)?(?:_reverse)?|recurrent_kernel|W_(?:ih|hh|rec))$")
_ENDS = frozenset(("decoder", "lm_head", "generator", "output", "text_decoder", "text_model", "language_model"))
_BLOCKS = frozenset(("h", "layer", "layers", "block", "blocks", "stage", "stages"))
_MLPS = re.compile(r"mlp|ffn|ffwd|^ff$|feed_?forward|DenseReluDense|shared_expert", re.IGNORECASE)


def kind_of(name: str) -> str:
    """The kind of the matrix of this canonical name; "linear" when the name says nothing.

    One of attention.query/key/value/kv/qkv/output, mlp.gate/up/down/other, expert.gate/up/down, router, embedding,
    unembedding, recurrent, head, linear. (A convolution is told by its shape: "conv".)
    """
    parts = name.split(".")
    leaf, before = parts[-1], parts[:-1]
    if _RECURRENT.match(leaf):
        return "recurrent"
    leaf = leaf.removesuffix("_weight").lstrip("_") or leaf
    for container, index in pairwise(before):
        if container == "experts" and index.isdecimal():
            return EXPERT.get(leaf, "mlp.other")
    tail = ".".join(parts[-2:])
    in_attention = any(_ATTENTION.search(part) for part in before)
    if name in WHOLE:
        return WHOLE[name]
    if in_attention and leaf in IN_ATTENTION:
        return IN_ATTENTION[leaf]
    if tail in TAILS:
        return TAILS[tail]
    if leaf in ANYWHERE:
        return ANYWHERE[leaf]
    if in_attention and parts[-2] == "to_out":  # diffusers: to_out is (linear, dropout)
        return "attention.output"
    if leaf == "output_projection" and _ENDS.issuperset(before):
        return "unembedding"
    if _EMBEDDING.match(leaf):
        return "embedding"
    in_mlp = any(_MLPS.search(part) for part in before)
    if (in_mlp or any(part in _BLOCKS for part in before)) and not in_attention and leaf in IN_MLP:
        return IN_MLP[leaf]
    if in_mlp:
        return "mlp.other"
    if before and before[0] in ("classifier", "head", "heads", "classification_head"):
        return "head"
    return "linear"
