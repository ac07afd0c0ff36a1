"""Which matrices of a checkpoint are one and the same (tied), and which merely hold equal values.

Equal values alone are no tie: layers start at zero, experts start as copies of one another, and part later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Content = tuple[object, ...]
"""What a matrix is made of: the digests of its tensors, and how they are cut."""

_EMBEDDINGS = frozenset(("embedding", "unembedding"))


@dataclass(frozen=True)
class Candidate:
    """A matrix that may be tied to others. `tensors` are its tensors' names, `digests` those of their values."""

    name: str
    kind: str
    tensors: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What tells a tie from a coincidence.

    `shared`: tensor name → number of the storage that the file shared between several names. `declared`: the config
    says that embedding and output head are tied. `is_constant` of a digest: all entries are equal. `elsewhere` of
    matrix names: their contents in the run's checkpoints, None where one is not there.
    """

    shared: Mapping[str, int]
    declared: bool
    is_constant: Callable[[str], bool]
    elsewhere: Callable[[Sequence[str]], Iterable[Mapping[str, Content | None]]]


def tied_to(groups: Iterable[Sequence[Candidate]], evidence: Evidence) -> dict[str, str]:
    """Matrix → the earlier one that it is tied to. `groups`: the matrices of equal content, those that count first.

    A pair is tied when its tensors share their storage, when it is embedding and output head (and the config says so,
    or the values are not constant), or when nothing speaks against: its values are not constant, and no checkpoint of
    the run holds both with different values.
    """
    tied: dict[str, str] = {}
    for group in groups:
        constant = any(evidence.is_constant(digest) for digest in dict.fromkeys(group[0].digests))
        heads: list[Candidate] = []
        rest: list[Candidate] = []
        for candidate in group:
            other = next((h for h in heads if _surely(h, candidate, evidence, constant)), None)
            if other is not None:
                tied[candidate.name] = other.name
            else:
                heads.append(candidate)
                rest.append(candidate)
        if len(rest) > 1 and not constant:
            tied |= _never_apart([c.name for c in rest], evidence)
    # a chain (c to b, b to a) ends at the matrix that counts
    return {name: tied.get(other, other) for name, other in tied.items()}


def _surely(head: Candidate, candidate: Candidate, evidence: Evidence, constant: bool) -> bool:
    """Whether the checkpoint alone tells that the two are one."""
    pairs = zip(head.tensors, candidate.tensors, strict=True)  # equal content: as many tensors in both
    storages = [(evidence.shared.get(a), evidence.shared.get(b)) for a, b in pairs]
    if storages and all(a is not None and a == b for a, b in storages):
        return True
    return {head.kind, candidate.kind} <= _EMBEDDINGS and (evidence.declared or not constant)


def _never_apart(names: Sequence[str], evidence: Evidence) -> dict[str, str]:
    """Name → the earlier one with equal content wherever both are."""
    first = dict.fromkeys(names, names[0])
    seen = [at for at in evidence.elsewhere(names) if len(set(at.values()) - {None}) > 1]
    if seen:
        heads: list[str] = []
        for name in names:
            first[name] = next((head for head in heads if all(_agree(at, head, name) for at in seen)), name)
            if first[name] == name:
                heads.append(name)
    return {name: head for name, head in first.items() if name != head}


def _agree(at: Mapping[str, Content | None], one: str, other: str) -> bool:
    return at[one] is None or at[other] is None or at[one] == at[other]
