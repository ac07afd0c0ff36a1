"""What a matrix is compared with when its name alone does not decide: tied output heads, and new parts.

A file with tied embeddings stores one tensor for the input embedding and the output head; an adapter can change either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pipeline.archive.fused import config_for, integer, model_type_of
from pipeline.archive.names import words
from pipeline.archive.recipes import Dense
from pipeline.archive.renaming import transformers_table

_TURN = ("permute", 1, 0)
_ENDS = frozenset(("embedding", "unembedding"))
_HEAD_WORDS = words(
    "head heads lm_head classifier pre_classifier classification_head score qa_outputs cls pooler predictions projector"
    " decode_head auth_head seq_relationship summary class_embed bbox_embed class_labels_classifier bbox_predictor"
    " class_predictor output_projection embed_out proj_out"
)
_POSITIONS = words("position positions positional pos wpe segment type token_type")


def ties_embeddings(config: Mapping[str, Any]) -> bool:
    """Whether a model's output head is its input embedding: by its config, or by the default of its family."""
    parts = [config, *(part for key in ("text_config", "decoder") if isinstance(part := config.get(key), Mapping))]
    given = [part["tie_word_embeddings"] for part in parts if isinstance(part.get("tie_word_embeddings"), bool)]
    return any(given) if given else any(model_type_of(part) in transformers_table()["tied"] for part in parts)


def is_head(name: str, kind: str) -> bool:
    """Whether a matrix belongs to a model's output head, by its kind or the words of its canonical name."""
    return kind in ("head", "unembedding") or not _HEAD_WORDS.isdisjoint(name.split("."))


def is_word_embedding(name: str, kind: str) -> bool:
    """Whether a matrix is a table of tokens, not of positions or of segments."""
    leaf = name.rsplit(".", 1)[-1]
    return kind == "embedding" and _POSITIONS.isdisjoint((*leaf.split("_"), leaf))


class Described(Protocol):
    """A `MatrixSpec` or a `MatrixInfo`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def orientation(self) -> str: ...


def tied_name(wanted: Described, there: Iterable[Described], config: Mapping[str, Any]) -> str | None:
    """The matrix of another checkpoint that is this one under another name, by the tie that its `config` declares.

    A head (vocab, d) is the embedding (d, vocab) of the tokens; an encoder's or decoder's table is the shared one.
    None where nothing is tied, or the shapes do not agree.
    """
    vocabulary = integer(config_for(wanted.name, config), "vocab_size")
    is_end = wanted.kind in _ENDS or (vocabulary is not None and vocabulary in wanted.shape)
    if not is_end or not ties_embeddings(config):
        return None
    names = [
        other.name
        for other in there
        if (is_word_embedding(other.name, other.kind) or other.kind == "unembedding")
        and other.shape == (wanted.shape if stands_like(wanted, other) else wanted.shape[::-1])
    ]
    side = wanted.name.split(".", 1)[0]
    return min(names, key=lambda name: (name != "shared", not name.startswith(side), name), default=None)


def stands_like(wanted: Described, other: Described) -> bool:
    """Whether both are tables (d, vocab) or neither is. An embedding's matrix is the transpose of a head's."""
    return _is_table(wanted) == _is_table(other)


def _is_table(matrix: Described) -> bool:
    return matrix.kind == "embedding" and matrix.orientation == "in_out"


def turned(recipe: Dense) -> Dense:
    """The transpose."""
    ops = recipe.ops[:-1] if recipe.ops and recipe.ops[-1] == _TURN else (*recipe.ops, _TURN)
    return Dense(recipe.tensor, ops)


def is_new_part(wanted: Described, in_adapter: bool) -> bool:
    """Whether only the tuned model is expected to have this matrix: a head, or a module that an adapter saves whole
    (`modules_to_save`)."""
    return is_head(wanted.name, wanted.kind) or (in_adapter and wanted.role == "weight")


def is_resized(wanted: Described, other: Described) -> bool:
    """Whether two matrices of one name differ only in the size of the vocabulary, or in the number of classes."""
    if wanted.kind == "embedding":
        return wanted.shape[0] == other.shape[0]
    return is_head(wanted.name, wanted.kind) and wanted.shape[1] == other.shape[1]
