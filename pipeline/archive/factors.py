"""Factors of adapters inside a file of weights: LoRA under any tool's names, LyCORIS, learned prompts.

A factor is no matrix of the model: it acts as a product, times a scale that the file may not tell. Known names decide
first. Other names are decided by shapes: two matrices (r, in) and (out, r) in one module with a weight (out, in) are
its factors, and so are the pairs of a file that holds nothing else. Real low-rank layers (latent attention, factorised
embeddings, bottlenecks, RWKV's ``w_lora``) have no such weight beside them and stay what they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from math import prod

from pipeline.archive.kinds import kind_of
from pipeline.archive.names import canonical, words
from pipeline.archive.types import TensorHeader
from pipeline.archive.unmeasured import FLOATS

_PROMPT = re.compile(
    r"(?:^|\.)(?:adapter_query|adapter_wte|adaption_prompt|adaption_gate|gating_factor|soft_prompts?|prompt_embeddings?|"
    r"(?:prompt|prefix)_tokens|prefix_encoder|prompt_encoder\.[^.]+\.(?:embedding|transform|mlp_head)|"
    r"prompt_learner\.(?:ctx|token_prefix|token_suffix))(?:\.|$)"
)
_TOOLS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), tool)
    for pattern, tool in (
        (r"(?:^|\.)lora_(?:embedding_)?[AB]\.(?:[^.]+\.)?(?:weight|bias)$", "PEFT"),
        (r"(?:^|\.)lora_(?:embedding_[AB]|magnitude_vector)(?:\.|$)", "PEFT"),
        (r"(?:^|\.)lora_E(?:\.|$)", "PEFT"),
        (r"(?:^|[._])lora_[AB](?:\.|$)", "loralib, LitGPT"),
        (r"(?:^|\.)lora_[ab]\.(?:weight|bias)$", "torchtune"),
        (r"(?:^|[._])lora_[ab]$", "MLX"),
        (r"(?:^|\.)lora_(?:down|up|mid)(?:\.|$)", "kohya"),
        (r"\.processor\..*lora|_lora\.(?:down|up)\.", "diffusers' attention processors"),
        (r"(?:^|\.)lora(?:_linear_layer)?\.(?:down|up)\.", "diffusers"),
        (r"(?:^|[._])lora_w\w+_l[12](?:\.|$)", "LLaMA-Adapter"),
        (r"^(?:lora|lycoris)_.*\.(?:diff|diff_b|w_norm|b_norm)$", "LyCORIS"),
        (r"(?:^|\.)(?:lokr_[wt]\d|loha_|hada_[wt]\d|dora_scale|bypass_(?:down|up)|oft_(?:blocks|diag))", "LyCORIS"),
        (r"(?:^|\.)(?:b?oft_[rRs]|vera_[AB]|vera_lambda_[bd]|ia3_l|fourierft_spectrum|hra_u)(?:\.|$)", "PEFT"),
        (r"(?:^|\.)(?:vblora_\w+|randlora_\w+|shira_weight|c3a_kernel|miss_block|bone_block)(?:\.|$)", "PEFT"),
    )
)
_MAY_BE = re.compile(
    "lora|lokr|loha|hada|bypass_|oft_|vera_|ia3_l|fourierft|hra_u|shira|c3a_k|miss_b|bone_b|lycoris|adapter_|adaption|gating",
    re.IGNORECASE,
)
"""A quick test: no name without one of these words is a factor by its name."""
_LORA = re.compile(r"(?:^|_)(?:lo[Rr][Aa]|LORA|LoRA|Lora)s?\d*(?=_|$|[A-Z])")
_LAYER_OF_A_SIDE = re.compile(r"^(?:(?:linear|dense|proj|fc)_)?(?:in|out|[abAB]|down|up)(?:_proj)?$")
_LETTERS = tuple(map(frozenset, ("ab", "AB", ("l1", "l2"), "uv", "UV", "12")))
_PLACES = tuple(map(frozenset, (("down", "up"), ("left", "right"), ("in", "out"), ("first", "second"))))
_SIDE = frozenset().union(*_LETTERS[:-1], *_PLACES, ("mid",))
_SCALES = words("alpha network_alpha lora_alpha lora_scaling scaling scale rank lora_rank magnitude m")
_WRAPPED = words("base_layer original orig original_layer org_module orig_module wrapped to_wrap frozen")
_PERHAPS_WRAPPED = words("base linear inner")
_LINEAR = re.compile(r"(?:^|_)(?:proj|projection|linear|lin\d*|dense|fc\d*|to_[qkvo]|conv\d*)$")
_TOKENS = re.compile(r"[A-Za-z]+|\d+")

Names = dict[str, str]


def low_rank_factors(tensors: Sequence[TensorHeader]) -> Names:
    """The tensors that are parts of an adapter, each with the reason why it is not measured."""
    listed: Names = {}
    for header in tensors:
        name = header.name.replace("/", ".")
        if _PROMPT.search(name):
            listed[header.name] = "a learned prompt or its gate, not a weight of the model"
        elif (tool := _tool(name)) is not None:
            listed[header.name] = _reason(tool)
    for header in (*_beside_their_weight(tensors, listed), *_of_a_file_of_factors(tensors, listed)):
        listed.setdefault(header.name, _reason("told by its shape and its partner's"))
    return listed | _scales(tensors, listed)


def _reason(tool: str) -> str:
    if tool == "PEFT":
        return "a LoRA factor (PEFT) without adapter_config.json, so its scale is unknown; save it with save_pretrained"
    return f"a LoRA factor ({tool}), not a weight of the model; merge it into its base to measure it"


def _tool(name: str) -> str | None:
    """Whose names these are; None when the name does not speak of a factor."""
    if not _MAY_BE.search(name):
        return None
    for pattern, tool in _TOOLS:
        if pattern.search(name):
            return tool
    parts = name.split(".")
    for part, following in pairwise((*parts, "")):
        if lora := _LORA.search(part):
            # Only what comes after the word is a side: RWKV's `a_lora` is a real layer.
            tokens = _TOKENS.findall(part[lora.end() :]) or _TOKENS.findall(following)[:1]
            letter = len(tokens) == 1 and len(tokens[0]) == 1 and tokens[0].isalpha()
            after = tokens and not lora.start() and _LAYER_OF_A_SIDE.match(following)
            if letter or after or (tokens and _SIDE & {tokens[0], tokens[-1]}):
                return "by its name"
    return None


def _matrices(tensors: Iterable[TensorHeader], listed: Names) -> list[TensorHeader]:
    return [t for t in tensors if len(t.shape) == 2 and t.dtype in FLOATS and 0 not in t.shape and t.name not in listed]


def _product(first: TensorHeader, second: TensorHeader) -> tuple[int, int] | None:
    """(out, in) of the low-rank product of a pair (r, in), (out, r), or (in, r), (r, out); None when it is none."""
    for a, b in ((first, second), (second, first)):
        rank, size = a.shape[0], (b.shape[0], a.shape[1])
        if b.shape[1] == rank and 2 * rank <= min(size):
            return size
    return None


def _beside_their_weight(tensors: Sequence[TensorHeader], listed: Names) -> list[TensorHeader]:
    """Pairs in a module whose own weight, or that of the layer it wraps, has the shape of their product."""
    matrices = {tuple(re.split(r"[./]", header.name)): header for header in _matrices(tensors, listed)}
    weights = {parts[:-1]: header.shape for parts, header in matrices.items() if parts[-1] in ("weight", "kernel")}
    wrapped = {
        module[:-1]: (shape, module[-1] in _WRAPPED)
        for module, shape in weights.items()
        if len(module) > 1 and module[-1] in _WRAPPED | _PERHAPS_WRAPPED
    }
    below: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for parts, header in matrices.items():
        for owner in (parts[:cut] for cut in range(max(len(parts) - 3, 1), len(parts))):
            if prod(header.shape) < prod(weights.get(owner) or wrapped.get(owner, ((), False))[0]):
                below[owner].append(parts)
    pairs: list[TensorHeader] = []
    for owner, candidates in below.items():
        shape, certain = (weights[owner], True) if owner in weights else wrapped[owner]
        for one, other in combinations(candidates[:16], 2):
            if _product(matrices[one], matrices[other]) not in (shape, shape[::-1]):
                continue
            own = one[:-1] == other[:-1] == owner and owner in weights
            if own or _differ(one, other, _LETTERS + _PLACES if certain else _LETTERS):
                pairs += [matrices[one], matrices[other]]
    return pairs


def _differ(one: Sequence[str], other: Sequence[str], sides: Sequence[frozenset[str]]) -> bool:
    """Whether two names are equal but for one word, and that word names two sides (a and b, down and up)."""
    ours, theirs = _TOKENS.findall(" ".join(one)), _TOKENS.findall(" ".join(other))
    different = [frozenset(pair) for pair in zip(ours, theirs, strict=False) if len(set(pair)) > 1]
    return len(ours) == len(theirs) and len(different) == 1 and different[0] in sides


def _of_a_file_of_factors(tensors: Sequence[TensorHeader], listed: Names) -> list[TensorHeader]:
    """All matrices of a file in which every matrix has its partner and there is nothing else but scalars."""
    rest = [t for t in tensors if t.name not in listed and t.shape not in ((), (1,))]
    matrices = _matrices(rest, listed)
    if len(matrices) != len(rest):
        return []
    groups: dict[str, list[TensorHeader]] = defaultdict(list)
    for header in matrices:
        groups[_without_side(header.name)].append(header)
    return matrices if all(_is_pair(module, pair) for module, pair in groups.items()) else []


def _is_pair(module: str, pair: Sequence[TensorHeader]) -> bool:
    """Whether these are a low-rank pair by shape, and two sides by name or in the place of a linear layer's weight."""
    if len(pair) != 2 or _product(*pair) is None:
        return False
    return _differ([pair[0].name], [pair[1].name], _LETTERS[:-1]) or _names_a_linear(module)


def _without_side(name: str) -> str:
    """A name without the words that name a side, and without its last component where it is a bare parameter."""
    parts = re.split(r"[./]", name)
    if len(parts) > 1 and parts[-1] in ("weight", "kernel"):
        parts = parts[:-1]
    if len(parts) > 1:
        return ".".join(parts[:-1])
    return "_".join(token for token in _TOKENS.findall(parts[0]) if token not in _SIDE)


def _names_a_linear(module: str) -> bool:
    """Whether a module's name is that of a linear layer: what would hold a weight, holds two factors."""
    return bool(_LINEAR.search(module)) or kind_of(canonical(module)) not in ("linear", "embedding")


def _scales(tensors: Sequence[TensorHeader], listed: Names) -> Names:
    """Scalars and vectors that belong to factors: alpha, rank, DoRA's magnitude."""
    modules: set[str] = set()
    for name in listed:
        parts = name.removesuffix(".weight").split(".")[:-1]
        modules |= {".".join(parts), ".".join(parts[:-1]) if parts and _LORA.search(parts[-1]) else ""}
    return {
        t.name: "the scale, rank or magnitude of LoRA factors"
        for t in tensors
        if t.name not in listed and len(t.shape) <= 1 and t.name.rpartition(".")[2] in _SCALES
        and t.name.rpartition(".")[0] in modules - {""}
    }  # fmt: skip
