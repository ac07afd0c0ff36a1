"""A model around a stored checkpoint: transformers' class for its config, or the user's own, with the stored weights.

Nothing is downloaded and no code of an archive runs: the config only chooses among the classes that transformers has,
weights come from the store in the names of their files (fused and per-expert experts alike), and a parameter that the
store does not hold is an error, never left at random.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from analyzers.errors import ParameterError, ResourceError, Unmeasurable
from analyzers.models import ParameterInfo, WholeCheckpoint
from pipeline.models.factories import import_factory
from pipeline.models.offline import check_size, local_config, offline, without_pretrained
from pipeline.models.offload import disk_placement

_WAY_OUT = "give the model yourself: --model package.module:factory"
_FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_LAYER = re.compile(r"\.\d+\.")
_EXPERT = re.compile(r"(?P<head>.*experts\.)(?P<expert>\d{1,9})(?P<tail>\..*)")
_SHOWN = 4


def build_model(
    checkpoint: WholeCheckpoint, factory: str | None = None, memory_bytes: int | None = None
) -> torch.nn.Module:
    """The model with the checkpoint's parameters, in eval mode, on the CPU.

    Without a `factory`: the class that config.json names, by transformers, in the checkpoint's commonest float dtype.
    A model larger than `memory_bytes` (default: four fifths of what is free) keeps what does not fit on disk and reads
    it as needed (`model.hf_device_map` tells). With one: "package.module:factory", called with the config (a dict),
    and the parameters loaded under the names they have in the files, every one of them.

    Raises `Unmeasurable` where no model can be built of the data (no config, a layer without weights), `ResourceError`
    where this machine has not what it takes (transformers, or one that knows the architecture; room on disk), and
    `ParameterError` where the factory cannot be imported, raises, or makes a model that does not fit.
    """
    if factory is not None:
        return _by_factory(checkpoint, factory)
    return _by_transformers(checkpoint, memory_bytes)


def _where(checkpoint: WholeCheckpoint) -> str:
    return f"{checkpoint.run}@{checkpoint.step}"


# -- the user's own module


def _by_factory(checkpoint: WholeCheckpoint, factory: str) -> torch.nn.Module:
    make = import_factory(factory, "--model")
    try:
        model = make(dict(checkpoint.config))
    except Exception as error:  # the function is the user's: it may raise anything
        raise ParameterError(
            f"{_where(checkpoint)}: --model {factory}, called with its config, raised {type(error).__name__}: {error}"
            + ("" if checkpoint.config else " (there is no config.json, so the config is empty)")
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ParameterError(f"--model {factory} returned a {type(model).__name__}, not a torch.nn.Module")
    stored = {info.name: info for info in checkpoint.parameters}
    own = model.state_dict()
    of_wrapped = {name.removeprefix("module.").removeprefix("_orig_mod."): name for name in stored}
    names = {name: name if name in stored else of_wrapped.get(name) for name in own}
    parameters = dict(model.named_parameters())
    missing = [name for name, there in names.items() if there is None and name in parameters]
    tied = {id(parameters[name]) for name, there in names.items() if there is not None and name in parameters}
    missing = [name for name in missing if id(parameters[name]) not in tied]
    if missing:
        raise ParameterError(
            f"{_where(checkpoint)}: the model of {factory} has {len(missing)} parameters that the checkpoint lacks: "
            f"{_some(missing)}; it holds {_some(sorted(stored))}"
        )
    with torch.no_grad():
        for name, there in names.items():
            if there is None:
                continue
            value = checkpoint.read(there)
            if value.shape != own[name].shape:
                raise ParameterError(
                    f"{_where(checkpoint)}: {there} has shape {tuple(value.shape)}, but the model of {factory} needs "
                    f"{tuple(own[name].shape)} for {name}"
                )
            own[name].copy_(value)
    return model.eval()


# -- transformers


class _Lazy:
    """A stored tensor as transformers wants those of a file: read when it is sliced."""

    def __init__(self, checkpoint: WholeCheckpoint, info: ParameterInfo, name: str) -> None:
        self._read, self._name, self._shape = checkpoint.read, name, info.shape

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._read(self._name)[index]

    def get_shape(self) -> list[int]:
        return list(self._shape)


_LAZY_IMPORTS = threading.Lock()
"""transformers imports its parts when they are first asked for; two threads at once find them half made."""


def _by_transformers(checkpoint: WholeCheckpoint, memory_bytes: int | None) -> torch.nn.Module:
    where = _where(checkpoint)
    config = clean_config(checkpoint)
    try:
        import transformers
    except ImportError as error:
        raise ResourceError(
            f"{where}: building a {config.get('model_type')} needs transformers: pip install -e '.[hf]' in varve's "
            f"folder, or {_WAY_OUT}"
        ) from error
    with _LAZY_IMPORTS, offline():
        made = _config_object(transformers, config, where)
        without_pretrained(made)
        cls = _class_of(transformers, made, config, where)
    dtype = commonest_dtype(checkpoint)
    state = {info.name: _Lazy(checkpoint, info, info.name) for info in checkpoint.parameters}
    transformers_logging = transformers.utils.logging
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with offline(), disk_placement(checkpoint, dtype, memory_bytes) as placement:
            check_size(cls, made, checkpoint.parameters, where)
            model, loading = cls.from_pretrained(
                None,
                config=made,
                state_dict=state,
                dtype=dtype,
                attn_implementation="eager",
                output_loading_info=True,
                **placement.arguments,
            )
            placement.keep_with(model)
    except (Unmeasurable, ResourceError):
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError, ImportError) as error:
        gaps = _gaps([info.name for info in checkpoint.parameters])
        text = f"no weights for {_some(gaps)}" if gaps else " ".join(str(error).split())[:600]
        raise Unmeasurable(
            f"{where}: transformers cannot build {cls.__name__} from this checkpoint: {text}; {_WAY_OUT}"
        ) from error
    finally:
        transformers_logging.set_verbosity(before)
        if bar:
            transformers_logging.enable_progress_bar()
    _complete(loading, where, cls.__name__)
    built: torch.nn.Module = model.eval()
    return built


def clean_config(checkpoint: WholeCheckpoint) -> dict[str, Any]:
    """The config without what would run or fetch code. Raises `Unmeasurable` where there is none or it cannot serve."""
    where, config = _where(checkpoint), dict(checkpoint.config)
    if not config:
        raise Unmeasurable(f"{where}: no config.json gives its architecture; {_WAY_OUT}")
    if not isinstance(config.get("model_type"), str):
        raise Unmeasurable(f"{where}: its config.json names no model_type, so transformers cannot build it; {_WAY_OUT}")
    if config.get("quantization_config"):
        method = (
            config["quantization_config"].get("quant_method", "unknown")
            if isinstance(config["quantization_config"], Mapping)
            else config["quantization_config"]
        )
        raise Unmeasurable(f"{where}: its weights are quantized ({method}); dequantize them first, or {_WAY_OUT}")
    return local_config(config, checkpoint.parameters, where)


def _config_object(transformers: Any, config: dict[str, Any], where: str) -> Any:
    model_type = config["model_type"]
    if model_type not in transformers.CONFIG_MAPPING:
        raise ResourceError(
            f"{where}: transformers {transformers.__version__} does not know the architecture {model_type!r}; "
            f"{_WAY_OUT}"
        )
    try:
        return transformers.CONFIG_MAPPING[model_type].from_dict(config)
    except Exception as error:  # validators of 400 config classes raise what they like about an archive's settings
        text = " ".join(str(error).split())
        raise Unmeasurable(f"{where}: its config.json is not a valid {model_type} config: {text[:400]}") from error


def _class_of(transformers: Any, made: Any, config: Mapping[str, Any], where: str) -> Any:
    """The class that `architectures` names, else the causal language model of the type, else its bare model."""
    named = config.get("architectures")
    for name in named if isinstance(named, list | tuple) else ():
        cls: Any = getattr(transformers, name, None) if isinstance(name, str) else None
        is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
        if is_model and getattr(cls, "config_class", None) is type(made):
            return cls
    for mapping in (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_MAPPING):
        if type(made) in mapping:
            found = mapping[type(made)]
            return found[0] if isinstance(found, tuple | list) else found
    raise Unmeasurable(
        f"{where}: transformers has no model for {config['model_type']!r} with architectures {named!r}; {_WAY_OUT}"
    )


def commonest_dtype(checkpoint: WholeCheckpoint) -> torch.dtype:
    """The float dtype that most entries are stored in; float32 where that is none a CPU computes in (fp8)."""
    counts: Counter[str] = Counter()
    for info in checkpoint.parameters:
        if "float" in info.dtype:
            counts[info.dtype] += _entries(info)
    return _FLOATS.get(counts.most_common(1)[0][0], torch.float32) if counts else torch.float32


def _entries(info: ParameterInfo) -> int:
    count = 1
    for side in info.shape:
        count *= side
    return count


def _complete(loading: Mapping[str, Any], where: str, cls: str) -> None:
    missing = sorted(loading.get("missing_keys") or ())
    if missing:
        raise Unmeasurable(
            f"{where}: {cls} has {len(missing)} parameters without weights in the checkpoint: {_some(missing)}; "
            f"check that all shards are in the archive and that config.json belongs to this model; otherwise {_WAY_OUT}"
        )
    left = [name for name in sorted(loading.get("unexpected_keys") or ()) if _LAYER.search(name) and _weight(name)]
    if left:
        raise Unmeasurable(
            f"{where}: the checkpoint holds {len(left)} weights of layers that a {cls} with its config lacks: "
            f"{_some(left)}; check that config.json belongs to this model; otherwise {_WAY_OUT}"
        )


def _gaps(names: list[str]) -> list[str]:
    """Parameters of single experts that are missing though others of their layer have them."""
    found: dict[str, dict[str, set[int]]] = {}
    for name in names:
        match = _EXPERT.match(name)
        if match is not None:
            found.setdefault(match["head"], {}).setdefault(match["tail"], set()).add(int(match["expert"]))
    gaps = []
    for head, by_tail in found.items():
        every = range(min(max(max(experts) for experts in by_tail.values()), len(names)) + 1)
        gaps += [f"{head}{expert}{tail}" for tail, has in by_tail.items() for expert in every if expert not in has]
    return sorted(gaps)


def _weight(name: str) -> bool:
    return not name.endswith(("inv_freq", "masked_bias", "position_ids", ".attn.bias", "attention.bias"))


def _some(names: list[str]) -> str:
    shown: Iterator[str] = iter(names[:_SHOWN])
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
