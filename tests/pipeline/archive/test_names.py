"""One matrix has one canonical name, in whatever wrapper, model class or expert form it was saved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.kinds import kind_of
from pipeline.archive.names import ANYWHERE, BASE_MODELS, WRAPPERS, Dialect, canonical, layer_of, unique_names
from tests.pipeline.archive.tiny import PROPERTY

WORDS = st.sampled_from(["encoder", "layer", "0", "3", "attention", "self", "query", "mlp", "fc1", "experts", "head"])
PATHS = st.lists(WORDS, min_size=1, max_size=6).map(".".join)


@PROPERTY
@given(
    prefixes=st.lists(st.sampled_from(sorted(WRAPPERS | BASE_MODELS | ANYWHERE)), max_size=5),
    path=PATHS,
    parameter=st.sampled_from(["", ".weight", ".kernel"]),
)
def test_a_stack_of_wrappers_never_changes_a_name(prefixes: list[str], path: str, parameter: str) -> None:
    assert canonical(".".join([*prefixes, path]) + parameter) == canonical(path)


@PROPERTY
@given(PATHS)
def test_a_canonical_name_is_its_own_canonical_name(path: str) -> None:
    assert canonical(canonical(path)) == canonical(path)


@PROPERTY
@given(path=PATHS, at=st.integers(0, 5), wrapper=st.sampled_from(sorted(ANYWHERE)))
def test_wrappers_in_the_middle_vanish(path: str, at: int, wrapper: str) -> None:
    parts = path.split(".")
    parts.insert(min(at, len(parts) - 1), wrapper)
    assert canonical(".".join(parts) + ".weight") == canonical(path)


@PROPERTY
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), max_size=12))
def test_no_two_matrices_share_a_name(candidates: list[list[str]]) -> None:
    names = unique_names(candidates)
    assert len(names) == len(set(names)) == len(candidates)


def test_a_collision_lengthens_only_the_names_concerned() -> None:
    names = unique_names([("x", "a.x"), ("x", "b.x"), ("y", "a.y")])
    assert names == ["a.x", "b.x", "y"]


def test_a_longer_name_that_is_another_matrix_s_short_one_moves_that_too() -> None:
    names = unique_names([("x", "b.x"), ("x", "c.x"), ("b.x", "d.b.x")])
    assert names == ["b.x", "c.x", "d.b.x"] or len(set(names)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "module.bert.encoder.layer.0.attention.self.query.weight",
        "base_model.model.bert.encoder.layer.0.attention.self.query",
        "base_model.model.encoder.layer.0.attention.self.query",
        "0.auto_model.encoder.layer.0.attention.self.query.weight",
        "_orig_mod.module.encoder.layer.0._checkpoint_wrapped_module.attention.self.query.weight",
        "base_model.model.bert.encoder.layer.0.attention.self.query.base_layer.weight",
        "params/bert/encoder/layer/0/attention/self/query/kernel",
    ],
)
def test_every_way_to_save_a_bert_gives_one_name(name: str) -> None:
    assert canonical(name) == "encoder.layer.0.attention.self.query"


def test_a_bare_parameter_keeps_its_name() -> None:
    assert canonical("weight") == "weight"
    assert canonical("model.weight") == "model"
    assert canonical("module.0.weight") == "0"


@pytest.mark.parametrize(
    ("on_disk", "in_memory"),
    [
        ("model.layers.1.block_sparse_moe.experts.2.w1.weight", "layers.1.mlp.experts.2.gate_proj"),
        ("model.layers.1.block_sparse_moe.experts.2.w3.weight", "layers.1.mlp.experts.2.up_proj"),
        ("model.layers.1.block_sparse_moe.experts.2.w2.weight", "layers.1.mlp.experts.2.down_proj"),
        ("model.layers.1.block_sparse_moe.gate.weight", "layers.1.mlp.gate"),
        ("encoder.block.1.layer.1.mlp.experts.expert_2.wi.weight", "encoder.block.1.layer.1.mlp.experts.2.wi"),
    ],
)
def test_experts_have_one_name_on_disk_and_in_memory(on_disk: str, in_memory: str) -> None:
    assert canonical(on_disk) == in_memory


def test_a_vit_s_old_file_names_and_new_module_names_are_one() -> None:
    vit = Dialect.of((), "vit")
    assert canonical("vit.encoder.layer.2.attention.attention.key.weight") == "layers.2.attention.k_proj"
    assert canonical("vit.encoder.layer.2.output.dense.weight", vit) == canonical("vit.layers.2.mlp.fc2.weight", vit)
    assert canonical("bert.encoder.layer.2.output.dense.weight") == "encoder.layer.2.output.dense"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lstm.weight_hh_l3", 3),
        ("layers.2.rnn.weight_ih_l0_reverse", 2),
        ("encoder.layer.11.output.dense", 11),
        ("layers.3.mlp.experts.7.up_proj", 3),
        ("mlp.experts.7.up_proj", None),
        ("decoder.block.2.layer.1.EncDecAttention.q", 2),
        ("layer4.0.conv1", 4),
        ("0", 0),
        ("fc1", None),
        ("h.5.attn.c_attn.q", 5),
    ],
)
def test_the_layer_is_the_block_s_index_and_never_an_expert_s(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("encoder.layer.0.attention.output.dense", "attention.output"),
        ("encoder.layer.0.intermediate.dense", "mlp.up"),
        ("encoder.layer.0.output.dense", "mlp.down"),
        ("pooler.dense", "linear"),
        ("cls.predictions.decoder", "unembedding"),
        ("h.0.attn.c_proj", "attention.output"),
        ("h.0.mlp.c_proj", "mlp.down"),
        ("layers.0.self_attn.out_proj", "attention.output"),
        ("layers.0.linear1", "mlp.up"),
        ("layers.0.linear2", "mlp.down"),
        ("encoder.block.0.layer.1.DenseReluDense.wo", "mlp.down"),
        ("layers.0.attention.wo", "attention.output"),
        ("layers.0.feed_forward.w2", "mlp.down"),
        ("layers.0.mlp.experts.3.w2", "expert.down"),
        ("layers.0.mlp.shared_experts.up_proj", "mlp.up"),
        ("layers.0.mlp.router", "router"),
        ("layers.0.mlp.gate_proj", "mlp.gate"),
        ("layers.0.self_attn.kv_a_proj_with_mqa", "attention.kv"),
        ("blocks.0.attn.qkv", "attention.qkv"),
        ("blocks.0.attn.proj", "attention.output"),
        ("decoder.layers.0.fc1", "mlp.up"),
        ("fc1", "linear"),
        ("layers.0", "linear"),
        ("embeddings.word_embeddings", "embedding"),
        ("decoder.embed_positions", "embedding"),
        ("embeddings_project", "linear"),
        ("lm_head", "unembedding"),
        ("classifier", "head"),
        ("classifier.out_proj", "head"),
        ("transformer.layer.0.ffn.lin2", "mlp.down"),
        ("layer.0.attention.q_lin", "attention.query"),
        ("output_projection", "unembedding"),
        ("decoder.output_projection", "unembedding"),
        ("layers.0.self_attn.output_projection", "attention.output"),
        ("layers.0.cross_attention.output_proj", "attention.output"),
        ("layers.0.output_projection", "linear"),
        ("embedding_weight", "embedding"),
        ("token_embedding_table", "embedding"),
        ("position_embedding_table", "embedding"),
        ("item_emb_matrix", "embedding"),
        ("vq._embedding", "embedding"),
        ("blocks.0.sa.proj", "attention.output"),
        ("blocks.0.sa.heads.1.key", "attention.key"),
        ("blocks.0.ffwd.net.0", "mlp.other"),
        ("blocks.0.sat.proj", "linear"),
        ("encoder.word_embedding_weight", "embedding"),
        ("lstm.weight_hh_l3", "recurrent"),
        ("encoder.rnn.weight_ih_l0_reverse", "recurrent"),
        ("cell.weight_hh", "recurrent"),
        ("unembed.W_U", "unembedding"),
        ("blocks.0.attn.W_O", "attention.output"),
    ],
)  # fmt: skip
def test_the_kind_follows_the_families_words(name: str, kind: str) -> None:
    assert kind_of(name) == kind
