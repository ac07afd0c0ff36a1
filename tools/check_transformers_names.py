"""Checks, for every class of transformers that has a conversion mapping, that its matrices in memory find its file's.

`python tools/check_transformers_names.py [MODEL_TYPE ...]` builds each class small (or without memory where no small
config is accepted), and compares ``torch.save(model.state_dict())`` and a LoRA on every linear layer with what
``save_pretrained`` writes. Where values exist they are compared too.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from pipeline.archive.bases import match_base
from pipeline.archive.layout import describe
from pipeline.archive.recipes import Dense, apply_ops
from pipeline.archive.renaming import disk_names
from pipeline.archive.types import Checkpoint, Layout, TensorHeader
from tools.transformers_names import TARGET, model_classes, on_meta, small

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


OTHER_CONTENT = {
    "experts of two modalities in one list on disk": "ernie4_5_vl_moe",
    "one tensor in memory, several on disk": "bailing_hybrid glm5_next glm5_next_text kimi_linear minimax_m3_vl molmo2"
    " molmo2_text olmo_hybrid",
    "renamed in another order than the rules tell": "nemo_speechlm",
}
"""Model types of which some matrices are not the same on disk and in memory, and why."""


def headers(tensors: dict[str, torch.Tensor]) -> tuple[TensorHeader, ...]:
    return tuple(TensorHeader(n, "float32", tuple(t.shape), 4 * t.numel()) for n, t in tensors.items())


def layout(tensors: tuple[TensorHeader, ...], config: dict[str, Any], adapter: dict[str, Any] | None = None) -> Layout:
    kind: Any = "adapter" if adapter else "full"
    return describe(
        Checkpoint("r", 0, "none", Path(), "", (), tensors, kind, {} if adapter else config, adapter), config
    )


def values(spec: Any, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return apply_ops(tensors[spec.recipe.tensor].detach().float().numpy(), spec.recipe.ops)


def check(model: torch.nn.Module) -> tuple[int, list[str]]:
    """How many matrices were compared, and what is wrong."""
    in_memory = dict(model.state_dict())
    keys = getattr(model, "all_tied_weights_keys", None) or {}
    untied = {n: t for n, t in in_memory.items() if n not in keys}
    on_disk = dict(revert_weight_conversion(model, dict(untied)))
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    base = layout(headers(on_disk), config)
    saved = layout(headers(untied), config)
    wrong = []
    found = match_base(saved, base)
    wrong += [
        f"{old} is a file's name and becomes {new}"
        for old, new in zip(on_disk, disk_names(tuple(on_disk), config), strict=True)
        if old != new
    ]
    wrong += [f"{u.name}: {u.reason}" for u in found.unmatched]
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and f"{n}.weight" in untied]
    factors = []
    for name, module in linears:
        m, n = module.weight.shape
        at = f"base_model.model.{name}.lora"
        factors += [
            TensorHeader(f"{at}_A.weight", "float32", (2, n), 8 * n),
            TensorHeader(f"{at}_B.weight", "float32", (m, 2), 8 * m),
        ]
    if factors:
        adapted = layout(tuple(factors), config, LORA)
        known = {s.name for s in saved.matrices}
        wrong += [f"adapter: {u.name}: {u.reason}" for u in match_base(adapted, base).unmatched]
        wrong += [f"adapter {s.name}: not a name of the checkpoint's" for s in adapted.matrices if s.name not in known]
    if not any(t.is_meta for t in in_memory.values()):
        for mine, its in found.pairs:
            if isinstance(mine.recipe, Dense) and not np.array_equal(values(mine, untied), values(its, on_disk)):
                wrong.append(f"{mine.name}: other values than in the file")
    return len(saved.matrices), wrong


def main(arguments: Sequence[str]) -> int:
    """Checks all, or the model types given; 1 unless those with unmatched matrices are exactly the expected ones."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    wanted = set(arguments)
    table = json.loads(TARGET.read_text())
    counts: Counter[str] = Counter()
    types: dict[str, set[str]] = {"right": set(), "wrong": set(), "not built": set()}
    for cls in model_classes():
        its_type = getattr(cls.config_class, "model_type", "")
        if (cls.__name__ not in table["classes"] and cls.__name__ not in table["rules"]) or (
            wanted and its_type not in wanted
        ):
            continue
        model = small(cls)
        sized = model is not None
        model = model if sized else on_meta(cls)
        if model is None:
            types["not built"].add(its_type)
            counts["not built"] += 1
            continue
        compared, wrong = check(model)
        verdict = "wrong" if wrong else "right"
        types[verdict].add(its_type)
        counts[f"{verdict}, {'with values' if sized else 'names and shapes'}"] += 1
        if wrong:
            print(f"{cls.__name__} ({its_type}): {len(wrong)} of {compared}: {'; '.join(wrong[:3])}", flush=True)
    known = {one for some in OTHER_CONTENT.values() for one in some.split()}
    print(dict(counts))
    types["right"] -= types["wrong"]
    types["not built"] -= types["right"] | types["wrong"]
    print(
        {name: len(of) for name, of in types.items()}, sorted(types["wrong"]), "not built:", sorted(types["not built"])
    )
    unexpected = types["wrong"] - known
    outdated = (known & wanted if wanted else known) - types["wrong"]
    print("unexpected:", sorted(unexpected), "expected but right:", sorted(outdated))
    return 1 if unexpected or outdated else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
