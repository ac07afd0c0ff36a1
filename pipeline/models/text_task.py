"""Tasks on text: classes of sentences from a table, or the language modelling loss on a text file, with a tokenizer
from local files and the model that the checkpoint's config.json names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyzers.errors import ParameterError, Unmeasurable
from analyzers.intrinsic_dimension.task import Built, Data, Metric, Split, Training
from analyzers.models import Models, WholeCheckpoint
from pipeline.models.array_task import FRACTIONS, TUNE_OF_TRAIN, reinitialised
from pipeline.models.task_data import existing, file_digest, limited, split
from pipeline.models.task_file import TextTask

IGNORED = -100
_STACKS = ("layer", "layers", "h", "block", "blocks")


class Reader(torch.nn.Module):
    """A backbone with a linear head on the mean of its last hidden states over real tokens."""

    def __init__(self, backbone: torch.nn.Module, width: int, classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = torch.nn.Linear(width, classes)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Class scores (n, classes) of token ids and mask, (n, tokens) each."""
        hidden = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        scores: torch.Tensor = self.head((hidden * weight).sum(1) / weight.sum(1).clamp_min(1))
        return scores


class Speaker(torch.nn.Module):
    """A model whose output has logits: of classes, or of the next token."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Its logits."""
        logits: torch.Tensor = self.backbone(input_ids=ids, attention_mask=mask).logits
        return logits


@dataclass(frozen=True)
class Text:
    """`Task` of a `TextTask`. Inputs are token ids and the attention mask, (n, tokens) each."""

    name: str
    splits: dict[Split, Data] = field(repr=False)
    model: str
    layers: int | None
    n_classes: int
    special: frozenset[int]
    reference_score: float | None
    training: Training
    metric: Metric
    ensembles: bool = False

    def data(self, split: Split) -> Data:
        """The examples of a split."""
        return self.splits[split]

    def build(self, checkpoint: WholeCheckpoint, models: Models, seed: int, random: bool) -> Built:
        """The checkpoint's model; for classes with its own head where it has one of that many outputs, else a fresh
        one. Raises `Unmeasurable` where the model does not fit the tokens."""
        where = f"{checkpoint.run}@{checkpoint.step}"
        backbone = models.build(checkpoint, None if self.model == "config" else self.model)
        if random:
            backbone = reinitialised(backbone, seed)
        if self.layers is not None:
            _cut(backbone, self.layers, where)
        self._check(backbone, where)
        with torch.no_grad():
            first = self.splits["train"].take(torch.arange(1))
            output = backbone.float()(input_ids=first.inputs[0], attention_mask=first.inputs[1])
        logits = getattr(output, "logits", None)
        if self.metric == "loss":
            if logits is None or logits.ndim != 3:
                raise Unmeasurable(f"{where}: {type(backbone).__name__} does not return logits for tokens")
            return Built(Speaker(backbone).eval())
        if logits is not None and logits.ndim == 2 and logits.shape[1] == self.n_classes:
            return Built(Speaker(backbone).eval())
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is None:
            raise Unmeasurable(
                f"{where}: {type(backbone).__name__} returns neither {self.n_classes} class scores nor hidden states"
            )
        if getattr(backbone, "pooler", None) is not None:
            backbone.register_module("pooler", None)  # stands beside the mean that is read, so nothing would train it
        reader = Reader(backbone, hidden.shape[-1], self.n_classes, seed).eval()
        return Built(reader, ("head.weight", "head.bias"))

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of classes, or of every next token."""
        if self.metric == "accuracy":
            return torch.nn.functional.cross_entropy(outputs, targets)
        return torch.nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    def scores(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """1 where the class is right; of a language model minus the mean loss of an example's tokens."""
        if self.metric == "accuracy":
            return (outputs.argmax(dim=-1) == targets).to(torch.float32)
        each = torch.nn.functional.cross_entropy(outputs[:, :-1].transpose(1, 2), targets[:, 1:], reduction="none")
        counted = (targets[:, 1:] != IGNORED).sum(dim=1).clamp_min(1)
        return -each.sum(dim=1) / counted

    def shuffled(self, data: Data, seed: int) -> Data:
        """Real tokens of each example in another order; padding and special tokens stay where they are."""
        ids, mask = data.inputs
        special = torch.tensor(sorted(self.special), dtype=ids.dtype, device=ids.device)
        free = (mask > 0) & ~torch.isin(ids, special)
        keys = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)).to(ids.device)
        # Free places sorted by position, and by random keys: the k-th of the one order takes the k-th of the other.
        places = torch.where(free, torch.arange(ids.shape[1], device=ids.device).float(), torch.inf).argsort(dim=1)
        drawn = torch.where(free, keys, torch.inf).argsort(dim=1, stable=True)
        moved = ids.clone()
        moved.scatter_(1, places, ids.gather(1, drawn))
        shuffled = torch.where(free, moved, ids)
        return Data(
            (shuffled, mask), torch.where(mask > 0, shuffled, IGNORED) if self.metric == "loss" else data.targets
        )

    def _check(self, backbone: torch.nn.Module, where: str) -> None:
        config = getattr(backbone, "config", None)
        words = getattr(config, "vocab_size", None)
        highest = max(int(data.inputs[0].max()) for data in self.splits.values())
        if words is not None and highest >= words:
            raise Unmeasurable(
                f"{where}: knows {words} tokens, but the tokenizer of task {self.name} produces id {highest}"
            )
        places = getattr(config, "max_position_embeddings", None)
        length = self.splits["train"].inputs[0].shape[1]
        if places is not None and length > places:
            raise Unmeasurable(
                f"{where}: has {places} positions, but the examples of task {self.name} have {length} tokens"
            )


def read_text_task(told: TextTask, folder: Path) -> tuple[Text, list[str]]:
    """The task, and the digests of its files. Raises `ParameterError` for data that cannot be learned from."""
    where = f"task {told.name}"
    if told.model != "config" and ":" not in told.model:
        raise ParameterError(f"{where}: model {told.model!r} is neither config nor package.module:factory")
    tokenizer, digests = _tokenizer(told, folder)
    given = told.data if isinstance(told.data, dict) else {"train": told.data}
    if "train" not in given:
        raise ParameterError(f"{where}: data names no train file")
    read: dict[str, Data] = {}
    classes: list[str] = []
    for name, file in given.items():
        path = existing(file, folder, where)
        digests.append(file_digest(path))
        if told.kind == "language_modelling":
            read[name] = _blocks(path, tokenizer, told)
        else:
            sentences, labels = _table(path, told)
            if not classes:
                classes = sorted(set(labels), key=lambda one: (len(one), one))
                if len(classes) < 2:
                    raise ParameterError(
                        f"{where}, {path}: all {len(labels)} labels are {classes[0]!r}; two different labels are needed"
                    )
            unknown = sorted(set(labels) - set(classes))
            if unknown:
                raise ParameterError(f"{where}, {path}: labels {unknown[:4]} do not occur in the training data")
            read[name] = _encoded(sentences, [classes.index(one) for one in labels], tokenizer, told)
    parts = split(read["train"], TUNE_OF_TRAIN if "score" in read else FRACTIONS)
    parts["score"] = read.get("score", parts.get("score", read["train"]))
    names: tuple[Split, ...] = ("train", "tune", "score")
    splits = {name: limited(parts[name], told.limit.get(name)) for name in names}
    special = frozenset(int(one) for one in tokenizer.all_special_ids)
    metric: Metric = "loss" if told.kind == "language_modelling" else "accuracy"
    training = Training(**told.training.model_dump())
    made = Text(
        told.name, splits, told.model, told.layers, len(classes), special, told.reference_score, training, metric
    )
    return made, digests


def _tokenizer(told: TextTask, folder: Path) -> tuple[Any, list[str]]:
    """The tokenizer and the digests of its files; nothing is fetched."""
    path = existing(told.tokenizer, folder, f"task {told.name}: tokenizer")
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError as error:
        raise ParameterError("tasks on text need transformers: pip install -e '.[hf]' in varve's folder") from error
    try:
        if path.is_file():
            tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(path))
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(f"task {told.name}: no tokenizer can be read from {path}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    names = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "tokenizer_config.json")
    files = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()]
    return tokenizer, [file_digest(file) for file in files]


def _table(path: Path, told: TextTask) -> tuple[list[str], list[str]]:
    """Sentences and labels (as strings) of a TSV, CSV, JSONL or Parquet file."""
    import csv

    import pandas as pd

    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    header = 0 if told.header else None
    try:
        if kind == "tsv":
            table = pd.read_csv(path, sep="\t", header=header, dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False)
        elif kind == "csv":
            table = pd.read_csv(path, header=header, dtype=str, keep_default_na=False)
        elif kind in ("jsonl", "ndjson"):
            table = pd.read_json(path, lines=True, dtype=False)
        elif kind == "parquet":
            table = pd.read_parquet(path)
        else:
            raise ParameterError(f"task {told.name}: {path} is not a .tsv, .csv, .jsonl or .parquet file")
    except (ValueError, OSError) as error:
        raise ParameterError(f"task {told.name}: {path} cannot be read: {error}") from error
    table.columns = [str(name) for name in table.columns]
    for column in (told.text, told.label):
        if column not in table.columns:
            raise ParameterError(
                f"task {told.name}: {path} has no column {column!r}; it has: {', '.join(table.columns)}"
            )
    if not len(table):
        raise ParameterError(f"task {told.name}: {path} has no rows")
    empty = int(table[told.label].isna().sum()) + int((table[told.label].astype(str) == "").sum())
    if empty:
        raise ParameterError(f"task {told.name}: {path}: {empty} of {len(table)} rows have no {told.label!r}")
    return table[told.text].astype(str).tolist(), table[told.label].astype(str).tolist()


def _encoded(sentences: Sequence[str], labels: Sequence[int], tokenizer: Any, told: TextTask) -> Data:
    fields = tokenizer(
        list(sentences), padding="max_length", truncation=True, max_length=told.max_tokens, return_tensors="pt"
    )
    return Data((fields["input_ids"], fields["attention_mask"]), torch.tensor(list(labels), dtype=torch.int64))


def _blocks(path: Path, tokenizer: Any, told: TextTask) -> Data:
    """The text's tokens in blocks of `max_tokens`; what is left over at the end is dropped."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"task {told.name}: {path} cannot be read as text: {error}") from error
    ids = np.array(tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"], dtype=np.int64)
    count = len(ids) // told.max_tokens
    if count < 8:
        raise ParameterError(
            f"task {told.name}: {path} has {len(ids)} tokens, which make {count} blocks of {told.max_tokens}; "
            "at least 8 are needed"
        )
    blocks = torch.from_numpy(ids[: count * told.max_tokens].reshape(count, told.max_tokens))
    return Data((blocks, torch.ones_like(blocks)), blocks)


def _cut(backbone: torch.nn.Module, layers: int, where: str) -> None:
    """Leaves the first layers of the model's stack."""
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.ModuleList) and name.rpartition(".")[2] in _STACKS:
            if len(module) < layers:
                raise Unmeasurable(f"{where}: has {len(module)} layers, but {layers} are requested")
            del module[layers:]
            return
    raise Unmeasurable(f"{where}: found no stack of layers to take the first {layers} of")
