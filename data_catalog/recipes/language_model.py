"""A byte-level language model: pre-trained on Python's source code, tuned to the prose of its manual.

Both texts come with every Python. The tuning runs (in full, and LoRA in PEFT's file format) start from the same base,
with the same data, seeds and number of steps.
"""

from __future__ import annotations

import pydoc_data.topics
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from data_catalog.recipes.saving import Log, complete, write_checkpoint
from data_catalog.recipes.transformer import Shape, Transformer

SHAPE = Shape(vocabulary=256, context=64, width=128, heads=4, layers=2, hidden=512)
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def source_code() -> torch.Tensor:
    """Bytes of the standard library's top-level modules, uint8."""
    folder = Path(sysconfig.get_path("stdlib"))
    return _bytes(b"\n\n".join(path.read_bytes() for path in sorted(folder.glob("*.py"))))


def manual_prose() -> torch.Tensor:
    """Bytes of the language reference that `help()` prints, uint8."""
    topics = pydoc_data.topics.topics
    return _bytes("\n\n".join(topics[name] for name in sorted(topics)).encode())


def _bytes(text: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


class LoraLinear(nn.Module):
    """y = W x + (α/r) B A x with W frozen; A is drawn, B starts at zero (2106.09685)."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear, self.scale = linear, alpha / rank
        self.lora_A = nn.Linear(linear.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=5**0.5)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in)."""
        return self.linear(x) + self.scale * self.lora_B(self.lora_A(x))


def add_lora(model: Transformer, rank: int, alpha: float) -> None:
    """Freezes `model` and puts an adapter on every linear map of its blocks."""
    model.requires_grad_(False)
    for block in model.layers:
        for part in (block.self_attn, block.mlp):
            for name in _TARGETS:
                if hasattr(part, name):
                    setattr(part, name, LoraLinear(getattr(part, name), rank, alpha))


def lora_tensors(model: Transformer) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that PEFT gives them."""
    return {f"base_model.model.{name}": value for name, value in model.state_dict().items() if ".lora_" in name}


def _fit(
    model: Transformer,
    text: torch.Tensor,
    steps: int,
    lr: float,
    every: int,
    save: Callable[[int, Log], None],
    say: Callable[[str], None],
    name: str,
    seed: int,
    batch: int = 32,
) -> None:
    """AdamW with 6 % warm-up and linear decay on random windows; the last tenth of the text is held out."""
    torch.set_num_threads(1)
    cut = len(text) * 9 // 10
    draw = torch.Generator().manual_seed(seed)
    held_out = _windows(text[cut:], torch.Generator().manual_seed(0), 64)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.01)
    warm_up = max(1, steps * 6 // 100)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm_up, max(0.0, (steps - s) / max(1, steps - warm_up)))
    )
    log: Log = []
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            with torch.no_grad():
                log.append({"step": step, "eval_loss": _loss(model, held_out).item()})
            say(f"{name}: step {step}: held-out loss {log[-1]['eval_loss']:.3f} nats per byte")
            save(step, log)
        if step == steps:
            return
        loss = _loss(model, _windows(text[:cut], draw, batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log.append({"step": step + 1, "loss": loss.item()})


def _windows(text: torch.Tensor, draw: torch.Generator, count: int) -> torch.Tensor:
    """`count` random windows of context + 1 bytes, int64."""
    starts = torch.randint(len(text) - SHAPE.context - 1, (count, 1), generator=draw)
    return text[starts + torch.arange(SHAPE.context + 1)].long()


def _loss(model: Transformer, windows: torch.Tensor) -> torch.Tensor:
    logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def pretrain(out: Path, say: Callable[[str], None], steps: int = 400, every: int = 40, seed: int = 0) -> Path:
    """Writes the run `pretrain` and its last checkpoint as `finetune/base` below `out`; returns the base's folder.

    The base lies among the runs that start from it, and not beside the run that led to it.
    """

    def train(folder: Path) -> None:
        torch.manual_seed(seed)
        model = Transformer(SHAPE)

        def save(step: int, log: Log) -> None:
            write_checkpoint(folder / f"checkpoint-{step}", model.state_dict(), step, log, config=SHAPE.config())

        _fit(model, source_code(), steps, 2e-3, every, save, say, "pretrain", seed)

    def copy_last(folder: Path) -> None:
        last = out / "pretrain" / f"checkpoint-{steps}"
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((last / name).read_bytes())

    complete(out / "pretrain", say, train)
    complete(out / "finetune" / "base", say, copy_last)
    return out / "finetune" / "base"


def _load(base: Path) -> Transformer:
    from safetensors.torch import load_file

    model = Transformer(SHAPE)
    model.load_state_dict(load_file(base / "model.safetensors"))
    return model


def tune_in_full(
    out: Path,
    base: Path,
    say: Callable[[str], None],
    steps: int = 120,
    every: int = 20,
    lr: float = 3e-4,
    seed: int = 0,
) -> None:
    """Writes the run `full` below `out`."""

    def train(folder: Path) -> None:
        torch.manual_seed(seed)
        model = _load(base)

        def save(step: int, log: Log) -> None:
            write_checkpoint(folder / f"checkpoint-{step}", model.state_dict(), step, log, config=SHAPE.config())

        _fit(model, manual_prose(), steps, lr, every, save, say, "full", seed)

    complete(out / "full", say, train)


def tune_with_lora(
    out: Path,
    base: Path,
    say: Callable[[str], None],
    rank: int,
    lr: float,
    steps: int = 120,
    every: int = 20,
    seed: int = 0,
) -> None:
    """Writes the run `lora-rRANK` below `out`, in PEFT's format, α = 2r."""
    name, alpha = f"lora-r{rank}", 2 * rank
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": "../../base",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "target_modules": list(_TARGETS),
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "inference_mode": True,
    }

    def train(folder: Path) -> None:
        torch.manual_seed(seed)
        model = _load(base)
        add_lora(model, rank, alpha)

        def save(step: int, log: Log) -> None:
            # Step 0 would be Δ = 0 for every matrix: nothing to save yet.
            if step:
                write_checkpoint(folder / f"checkpoint-{step}", lora_tensors(model), step, log, adapter_config=config)

        _fit(model, manual_prose(), steps, lr, every, save, say, name, seed)

    complete(out / name, say, train)
