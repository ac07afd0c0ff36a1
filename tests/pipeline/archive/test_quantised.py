"""No part of a quantised weight is a matrix, whatever its tool calls it; real parameters with such names are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive import describe
from tests.pipeline.archive.folders import only_run
from tests.pipeline.archive.tiny import PROPERTY, State, assert_accounted, layout_of

P = "model.layers.0.self_attn.q_proj."


def f(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def i(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


U8, I8, I16, I32, I64, F8 = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn

TOOLS: dict[str, State] = {
    "GPTQ": {"qweight": i(I32, 8, 64), "qzeros": i(I32, 2, 8), "scales": f(2, 64), "g_idx": i(I32, 64)},
    "Marlin": {"B": i(I32, 4, 128), "s": f(2, 64)},
    "AWQ": {"qweight": i(I32, 64, 8), "qzeros": i(I32, 2, 8), "scales": f(2, 64)},
    "EETQ": {"weight": i(I8, 64, 64), "weight_scales": f(64)},
    "HQQ": {"W_q": i(U8, 64, 32), "scale": f(64, 2), "zero": f(64, 2), "nbits": torch.tensor(4), "shape": i(I64, 2)},
    "HQQ's own file": {"W_q": i(U8, 64, 32), "meta.scale": f(64, 2), "meta.zero": f(64, 2)},
    "quanto": {"weight._data": i(I8, 64, 64), "weight._scale": f(64, 1), "input_scale": f(), "output_scale": f()},
    "quanto int4": {"weight._data._data": i(U8, 32, 64), "weight._scale": f(64, 2), "weight._shift": f(64, 2)},
    "quanto float8": {"weight._data": torch.zeros(64, 64).to(F8), "weight._scale": f(64, 1)},
    "torchao": {"_weight_qdata": i(I8, 64, 64), "_weight_scale": f(64, 2), "_weight_zero_point": i(I8, 64, 2)},
    "torchao int4": {"_weight_qdata": i(I32, 8, 4, 32, 4), "_weight_scale_and_zero": f(2, 64, 2)},
    "compressed-tensors": {"weight_packed": i(I32, 64, 8), "weight_scale": f(64, 2), "weight_shape": i(I64, 2)},
    "MLX": {"weight": i(torch.uint32, 64, 8), "scales": f(64, 2), "biases": f(64, 2)},
    "AQT": {"qvalue": i(I8, 64, 64), "scale.0": f(1, 64)},
    "SqueezeLLM": {"qweight": i(I32, 8, 64), "lookup_table": f(64, 16), "full_rows": f(10, 64)},
    "NVFP4": {"weight": i(U8, 64, 32), "weight_scale": torch.zeros(64, 4).to(F8), "weight_scale_2": f()},
    "FLUTE": {"weight": i(I16, 16, 64), "scales": f(64, 4), "tables": f(16), "tables2": f(16, 16)},
    "bitsandbytes 4 bit": {
        "weight": i(U8, 2048, 1),
        "weight.absmax": i(U8, 64),
        "weight.nested_absmax": f(4),
        "weight.nested_quant_map": f(256),
        "weight.quant_map": f(16),
        "weight.quant_state.bitsandbytes__nf4": i(U8, 120),
    },
    "bitsandbytes 8 bit": {"weight": i(I8, 64, 64), "SCB": f(64), "weight_format": i(U8)},
    "block float8": {"weight": torch.zeros(64, 64).to(F8), "weight_scale_inv": f(2, 2)},
    "ComfyUI float8": {"weight": torch.zeros(64, 64).to(F8), "scale_weight": f(1), "scale_input": f()},
    "MXFP8": {"weight": torch.zeros(64, 64).to(F8), "weight_scale": i(U8, 64, 2)},
    "AQLM": {"codes": i(I8, 8, 8, 1), "codebooks": f(1, 256, 8, 8), "scales": f(8, 1, 1, 1)},
    "QuIP#": {"Qidxs": i(I16, 64, 8), "SU": f(64), "SV": f(64), "Wscale": f(), "codebook_id": torch.tensor(0)},
    "VPTQ": {"indices": i(I16, 1, 8, 64), "centroids.weight": f(1, 2048), "weight_scale": f(64), "weight_bias": f(64)},
    "EXL2": {"q_weight": i(I32, 8, 64), "q_scale": i(I32, 2, 8), "q_scale_max": f(2), "q_invperm": i(I16, 64)},
    "MXFP4": {
        "gate_up_proj_blocks": i(U8, 2, 64, 2, 16),
        "gate_up_proj_scales": i(U8, 2, 64, 2),
        "gate_up_proj_bias": f(2, 64),
    },
    "fake quantisation": {"weight_quantizer._amax": f(64, 1), "weight_fake_quant.scale": f(64)},
}


@pytest.mark.parametrize("tool", TOOLS)
def test_no_part_of_a_quantised_weight_is_measured(tool: str) -> None:
    state = {P + name: tensor for name, tensor in TOOLS[tool].items()} | {P + "bias": f(64)}
    if tool == "fake quantisation":
        state[P + "weight"] = f(64, 64)
    layout = layout_of(state)
    assert_accounted(layout)
    assert [spec.name for spec in layout.matrices] == (["layers.0.self_attn.q_proj"] if tool.startswith("fake") else [])
    reasons = {u.tensor.removeprefix(P): u.reason for u in layout.unmeasured}
    assert "a bias" in reasons["bias"]
    wide = [name for name, tensor in state.items() if tensor.ndim > 1 and not name.endswith(("bias", ".weight_q"))]
    for name in set(wide) & {u.tensor for u in layout.unmeasured}:
        assert "quantis" in reasons[name.removeprefix(P)], name


NAME = st.text("bcdefghjklnopqruvwxyz", min_size=3, max_size=8).map(lambda word: f"y{word}")


@PROPERTY
@given(
    names=st.lists(NAME, min_size=3, max_size=3, unique=True),
    dtype=st.sampled_from([U8, I8, I16, I32]),
    out=st.sampled_from([32, 64, 96]),
    groups=st.sampled_from([1, 2, 4]),
    across=st.booleans(),
)
def test_codes_and_tables_of_an_unseen_tool_are_told_by_their_shapes(
    names: list[str], dtype: torch.dtype, out: int, groups: int, across: bool
) -> None:
    table = (groups, out) if across else (out, groups)
    state = {P + names[0]: i(dtype, out, 64), P + names[1]: f(*table), P + names[2]: f(*table), P + "bias": f(out)}
    layout = layout_of(state)
    assert not layout.matrices
    assert all("quantised" in u.reason for u in layout.unmeasured if not u.tensor.endswith("bias"))


REAL: dict[str, State] = {
    "a parameter called scale": {"mixer.scale": f(16, 8), "mixer.shift": f(16, 8), "mixer.zero": f(4, 4)},
    "a scale beside a float weight": {"fc.weight": f(16, 8), "fc.scale": f(16, 8), "fc.scales": f(16, 4)},
    "a bias table with its index": {
        "attn.relative_position_index": i(I64, 16, 16),
        "attn.relative_position_bias_table": f(49, 16),
    },
    "an index in int32": {"attn.rel_pos_idx": i(I32, 16, 16), "attn.relative_position_bias_table": f(49, 16)},
    "bare parameters and a mask": {"attn.mask": i(U8, 8, 8), "attn.W_a": f(8, 8), "attn.W_b": f(8, 4)},
    "position ids beside tables": {
        "emb.position_ids": i(I64, 1, 64),
        "emb.positions": f(64, 8),
        "emb.words": f(100, 8),
    },
    "an int8 buffer beside a whole weight": {"fc.weight": f(64, 64), "fc.flags": i(I8, 64, 64), "fc.U": f(64, 64)},
    "plain float8": {"fc.weight": torch.zeros(16, 8).to(F8), "fc.bias": f(16), "fc2.weight": torch.zeros(4, 16).to(F8)},
    "codebook of a VQ-VAE": {"quantize.embedding.weight": f(64, 8), "quantize.conv.weight": f(8, 8, 1, 1)},
    "a graph": {"edge_index": i(I64, 2, 40), "weight": f(2, 8), "lin.weight": f(8, 8)},
}


@pytest.mark.parametrize("model", REAL)
def test_real_parameters_stay_matrices(model: str) -> None:
    measured = {spec.recipe.tensor for spec in layout_of(REAL[model]).matrices}  # type: ignore[union-attr]
    floats = {name for name, tensor in REAL[model].items() if tensor.ndim > 1 and tensor.is_floating_point()}
    assert measured == floats


class Int4Tensor(torch.Tensor):
    """A tensor subclass as torchao makes them: it has no storage of its own, but codes and scales."""

    @staticmethod
    def __new__(cls, qdata: torch.Tensor, scale: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (qdata.shape[0], 2 * qdata.shape[1]), dtype=scale.dtype)

    def __init__(self, qdata: torch.Tensor, scale: torch.Tensor) -> None:
        self.qdata, self.scale = qdata, scale

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(func)


class LocalTensor(Int4Tensor):
    """A subclass whose name says nothing of codes: what it holds is not known to be a quantised weight."""


def test_a_tensor_subclass_of_codes_and_scales_is_listed_by_its_parts(tmp_path: Path) -> None:
    codes, scale = torch.zeros(64, 32, dtype=torch.uint8), torch.zeros(64, 2)
    state = {"fc.weight": Int4Tensor(codes, scale), "fc.bias": torch.zeros(64), "head.weight": torch.zeros(8, 64)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (checkpoint,) = only_run(tmp_path).checkpoints
    layout = describe(checkpoint)
    assert not checkpoint.problems
    assert [spec.name for spec in layout.matrices] == ["head"]
    reasons = {u.tensor: u.reason for u in layout.unmeasured}
    assert all("quantised weight" in reasons[name] for name in ("fc.weight.qdata", "fc.weight.scale"))


def test_any_other_tensor_subclass_is_a_problem_not_a_weight(tmp_path: Path) -> None:
    parts = torch.zeros(64, 32, dtype=torch.uint8), torch.zeros(64, 2)
    torch.save({"fc.weight": LocalTensor(*parts), "head.weight": torch.zeros(8, 64)}, tmp_path / "pytorch_model.bin")
    (checkpoint,) = only_run(tmp_path).checkpoints
    assert [problem.tensor for problem in checkpoint.problems] == ["fc.weight"]
