"""Translates the names that transformers uses in memory to those in its files, so that one matrix has one name.

In transformers 5 many modules have other names in memory than in files, and adapters and ``torch.save`` use the former.
The rules are transformers' own conversion mapping, kept as data in ``transformers_names.json`` (written by
tools/transformers_names.py). transformers itself is never imported here.

    names = disk_names(["model.language_model.layers.0.mlp.up_proj.weight"], config)
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from pipeline.archive.names import without_wrappers

_SUPPORTED = frozenset(
    [
        (("Chunk",), (0,)),
        (("Split",), (0,)),
        (("Interleave",), (1,)),
        (("Interleave", "Chunk"), (0, 0)),
        (("PermuteForRope",), (None,)),
        (("Chunk", "PermuteForRope"), (0, None)),
    ]
)
"""The operations from disk to memory, with their axes, that `StoredName` describes. Other tensors keep their names."""
_TABLE = "transformers_names.json"
_PART = re.compile(r"(?:_proj)?(?:\.(?:weight|bias))?$")


@dataclass(frozen=True)
class Direction:
    """One way of a rule: the pattern that is searched, and what replaces it (one replacement for each branch)."""

    pattern: str
    replacements: tuple[str, ...]


@dataclass(frozen=True)
class StoredName:
    """How a tensor in a file holds one or several that transformers has in memory.

    `parts`: their names, in the order of their equal shares of the rows; () when it holds one. `alternating`: the rows
    of two parts alternate. `rotary`: for each part, whether the two halves of each head's rows alternate, as complex
    rotary embeddings need them; () when of none.
    """

    parts: tuple[str, ...] = ()
    alternating: bool = False
    rotary: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One rule of the mapping within its scope: a submodel's path, None for the whole model."""

    kind: str
    to_memory: Direction
    to_disk: Direction | None
    operations: tuple[str, ...] = ()
    dims: tuple[int | None, ...] = ()
    rotary: tuple[str, ...] = ()
    offset: int = 0
    scope: str | None = None
    prefix: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the tensors in memory are called that one tensor on disk holds; () where it holds a single one."""
        names = self.to_memory.replacements
        return tuple(_PART.sub("", name).rsplit(".", 1)[-1] for name in names) if len(names) > 1 else ()

    @property
    def is_supported(self) -> bool:
        """Whether the rule converts values in a way that `stored` describes."""
        return self.kind == "convert" and (self.operations, self.dims) in _SUPPORTED

    @property
    def stored(self) -> StoredName:
        """How the tensor on disk holds those in memory."""
        turns = "PermuteForRope" in self.operations
        rotary = tuple(turns and self._is_rotary(name) for name in self.to_memory.replacements)
        cut = {"Chunk", "Interleave"} & set(self.operations)
        return StoredName(self.parts if cut else (), "Interleave" in self.operations, rotary if any(rotary) else ())

    def _is_rotary(self, name: str) -> bool:
        return not self.rotary or any(part in name for part in self.rotary)

    def apply(self, name: str, direction: Direction) -> tuple[str, int | None]:
        """The new name and which branch of the pattern matched; the name itself and None where none did."""
        head = ""
        if self.scope is not None:
            scope = f"{self.scope}." if self.scope else ""
            long = f"{self.prefix}.{scope}" if self.prefix else scope
            if not name.startswith((long, scope)):
                return name, None
            head = long if name.startswith(long) else scope
        rest = name[len(head) :]
        match = _compiled(direction.pattern).search(rest)
        if match is None:
            return name, None
        group = next(key for key, value in match.groupdict().items() if value is not None)
        branch = int(group[1:])
        text = direction.replacements[branch if self.kind == "group" else 0]
        return head + rest.replace(match.group(0), self._filled(text, match, group, direction), 1), branch

    def _filled(self, text: str, match: re.Match[str], group: str, direction: Direction) -> str:
        """A replacement with the captured groups in it."""
        at = match.re.groupindex[group]
        for number in range(1, 10):
            if rf"\{number}" in text:
                captured = match.group(at + number)
                if self.kind == "offset":
                    captured = str(int(captured) + (self.offset if direction is self.to_memory else -self.offset))
                text = text.replace(rf"\{number}", captured)
        return text


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def disk_names(names: Sequence[str], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Each tensor's name as transformers writes it to files; a name that is on disk already, or of no rule, stays.

    `config` is the model's config.json: its `architectures` and `model_type` say which rules apply. A tensor that is
    part of a fused one on disk gets the fused one's name and its part: ``attn.Wqkv.q.weight``.
    """
    form = _form_of(names, config)
    return tuple(names) if form is None or form.on_disk else form.renamed


def stored_on_disk(names: Sequence[str], config: Mapping[str, Any]) -> dict[str, StoredName]:
    """How the tensors of a file hold those in memory, where they are not the same; {} for names in memory."""
    form = _form_of(names, config)
    if form is None or not form.on_disk:
        return {}
    rules = {name: _loaded(bare, form.rules)[1] for name, bare in zip(names, form.bare, strict=True)}
    return {name: rule.stored for name, rule in rules.items() if rule is not None}


@dataclass(frozen=True)
class _Form:
    """Which of the two forms a checkpoint's names have, and by which rules.

    `bare`: the names without what wraps the model; `renamed`: as on disk.
    """

    on_disk: bool
    rules: tuple[Rule, ...]
    bare: tuple[str, ...]
    renamed: tuple[str, ...]


def _form_of(names: Sequence[str], config: Mapping[str, Any]) -> _Form | None:
    """The form of a checkpoint's names; None where no rule tells."""
    architectures, model_type = config.get("architectures"), config.get("model_type")
    if not isinstance(model_type, str):
        return None
    listed = tuple(a for a in architectures if isinstance(a, str)) if isinstance(architectures, list) else ()
    forms = (_form(bare, listed, model_type, tuple(_parts(config))) for bare in _unwrapped(tuple(names)))
    return next((form for form in forms if form is not None), None)


def _unwrapped(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The names as transformers has them: without the wrappers of torch, then also without what all begin with (the
    attribute of a LightningModule), as long as they stay distinct."""
    bare = without_wrappers(names)
    yield bare
    for _ in range(3):
        firsts = {name.partition(".")[0] for name in bare}
        if len(firsts) != 1 or not all("." in name for name in bare):
            return
        bare = tuple(name.partition(".")[2] for name in bare)
        yield bare


@functools.lru_cache(maxsize=128)
def _form(
    names: tuple[str, ...], architectures: tuple[str, ...], model_type: str, parts: tuple[tuple[str, str], ...]
) -> _Form | None:
    """As `_form_of`. The first class under which the names look like one of the two forms decides which it is."""
    for cls in _candidates(architectures, model_type):
        rules = _rules(cls, model_type, parts)
        prefix = _prefix(cls)
        renamed = tuple(_on_disk(name, rules, prefix) for name in names)
        in_memory = sum(name != new for name, new in zip(names, renamed, strict=True))
        on_disk = sum(_is_on_disk(name, rules, prefix) for name in names)
        if in_memory > on_disk:
            return _Form(False, rules, names, _distinct(names, renamed))
        if on_disk:
            return _Form(True, rules, names, names)
    return None


def _distinct(names: tuple[str, ...], renamed: tuple[str, ...]) -> tuple[str, ...]:
    """The new names, except that names which would clash stay as they were."""
    counts = Counter(renamed)
    kept = tuple(new if counts[new] == 1 else old for old, new in zip(names, renamed, strict=True))
    return kept if len(set(kept)) == len(kept) else names


def _candidates(architectures: tuple[str, ...], model_type: str) -> Iterator[str]:
    """The classes that a checkpoint of this config may be of: the one it names, then the others of its model type.

    An adapter can be trained on another class than the file was saved from, and a config may name none.
    """
    yield from architectures
    yield transformers_table()["bodies"].get(model_type, model_type)
    yield from _classes_of(model_type)


@functools.cache
def _classes_of(model_type: str) -> tuple[str, ...]:
    return tuple(name for name, (its_type, _, _) in transformers_table()["classes"].items() if its_type == model_type)


def _to_memory(name: str, rules: tuple[Rule, ...]) -> str:
    """What transformers loads a file's tensor as; of a fused tensor its first part."""
    return _loaded(name, rules)[0]


def _loaded(name: str, rules: tuple[Rule, ...]) -> tuple[str, Rule | None]:
    """As `_to_memory`, with the rule that converts the values, where one does."""
    for rule in rules:
        if rule.kind != "convert":
            name, _ = rule.apply(name, rule.to_memory)
    for rule in rules:
        if rule.is_supported:
            name, branch = rule.apply(name, rule.to_memory)
            if branch is not None:
                return name, rule
    return name, None


def _on_disk(name: str, rules: tuple[Rule, ...], prefix: str) -> str:
    """The name on disk of a name in memory, when transformers would load it as that name again; else the name."""
    fused, part = _joined(name, rules)
    renamed = _renamed(fused, rules)
    back = _to_memory(renamed, rules)
    if part:
        return _part_of(renamed, part) if _renamed(_joined(back, rules)[0], rules) == renamed else name
    return renamed if _same(back, name, prefix) else name


def _is_on_disk(name: str, rules: tuple[Rule, ...], prefix: str) -> bool:
    """Whether transformers would load a file's tensor of this name under another one, and write it as this again."""
    loaded = _to_memory(name, rules)
    return loaded != name and _same(_renamed(_joined(loaded, rules)[0], rules), name, prefix)


def _same(name: str, other: str, prefix: str) -> bool:
    """Whether two names are equal but for the base model's prefix, which transformers adds and drops as it loads."""
    return name == other or (bool(prefix) and other in (f"{prefix}.{name}", name.removeprefix(f"{prefix}.")))


def _joined(name: str, rules: tuple[Rule, ...]) -> tuple[str, str]:
    """The fused tensor that this one is a part of on disk, and which part; the name itself and "" when of none."""
    for rule in reversed(rules):
        if rule.is_supported and rule.to_disk is not None:
            joined, branch = rule.apply(name, rule.to_disk)
            if branch is not None:
                return joined, rule.parts[branch] if rule.parts else ""
    return name, ""


def _renamed(name: str, rules: tuple[Rule, ...]) -> str:
    """The renaming rules from memory to disk, all of them, in transformers' order."""
    for rule in reversed(rules):
        if rule.kind != "convert" and rule.to_disk is not None:
            name, _ = rule.apply(name, rule.to_disk)
    return name


def _part_of(fused: str, part: str) -> str:
    """``attn.Wqkv.weight``, ``q`` → ``attn.Wqkv.q.weight``."""
    stem, dot, parameter = fused.rpartition(".")
    for ending in ("weight", "bias"):
        if parameter == ending:
            return f"{stem}.{part}.{ending}"
        if parameter.endswith(f"_{ending}"):
            return f"{stem}{dot}{parameter.removesuffix(f'_{ending}')}.{part}.{ending}"
    return f"{fused}.{part}"


# Which rules a class has


@functools.cache
def transformers_table() -> dict[str, Any]:
    """What tools/transformers_names.py wrote."""
    return json.loads(resources.files("pipeline.archive").joinpath(_TABLE).read_text(encoding="utf-8"))


@functools.cache
def own_rules(key: str) -> tuple[Rule, ...] | None:
    """The rules under a class or model type, without a scope; None where transformers has none."""
    listed = transformers_table()["rules"].get(key)
    if isinstance(listed, str):
        return own_rules(listed)
    return None if listed is None else tuple(_rule(data) for data in listed)


def _rule(data: Mapping[str, Any]) -> Rule:
    ways = {way: Direction(data[way][0], tuple(data[way][1])) for way in ("to_memory", "to_disk") if way in data}
    return Rule(
        data["kind"],
        ways["to_memory"],
        ways.get("to_disk"),
        tuple(data.get("operations", ())),
        tuple(data.get("dims", ())),
        tuple(data.get("rotary", ())),
        data.get("offset", 0),
    )


def _parts(config: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """(setting, model type) of each part of a composite config: ("text_config", "llama")."""
    for key, value in config.items():
        if isinstance(value, Mapping) and isinstance(value.get("model_type"), str) and depth < 4:
            yield path + key, value["model_type"]
            yield from _parts(value, f"{path}{key}.", depth + 1)


@functools.lru_cache(maxsize=256)
def _rules(name: str, model_type: str, parts: tuple[tuple[str, str], ...]) -> tuple[Rule, ...]:
    """The rules of a model of this class, its submodels' included, in the order in which transformers collects them.

    A submodel's rules apply below its path. One that lies in another of the same class, or model type, has no rules
    of its own: the outer one's reach it.
    """
    types = dict(parts)
    prefix = _prefix(name)
    rules: list[Rule] = []
    seen: dict[str, list[str]] = defaultdict(list)
    for path, cls, its_type in _submodels(name, model_type, types, "", ""):
        if _lies_in(path, seen[cls]):
            continue
        own, key = own_rules(cls), cls
        if own is None:
            if _lies_in(path, seen[its_type]):
                continue
            own, key = own_rules(its_type), its_type
        if own is None:
            continue
        scope = path.removeprefix(prefix).removeprefix(".") if path else None
        rules += [replace(rule, scope=scope, prefix=prefix) for rule in own]
        seen[cls].append(path)
        if key == its_type:
            seen[its_type].append(path)
    return tuple(rules)


def _prefix(name: str) -> str:
    """The base_model_prefix of a class."""
    return str(transformers_table()["classes"].get(name, ("", "", ()))[1])


def _lies_in(path: str, others: Sequence[str]) -> bool:
    return any(not other or path.startswith(f"{other}.") for other in others)


def _submodels(
    name: str, model_type: str, types: Mapping[str, str], path: str, setting: str
) -> Iterator[tuple[str, str, str]]:
    """(path, class, model type) of a model and of all models in it, outer ones first."""
    yield path, name, model_type
    for below, cls, where, its_type in transformers_table()["classes"].get(name, ("", "", ()))[2]:
        at = setting if not where else f"{setting}.{where}" if setting else where
        actual = types.get(at, its_type) if where else its_type
        cls = cls if actual == its_type else transformers_table()["bodies"].get(actual, actual)
        yield from _submodels(cls, actual, types, f"{path}.{below}" if path else below, at)
