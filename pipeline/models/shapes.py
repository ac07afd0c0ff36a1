"""The tensors that a model of a config would save, without weights: transformers' class on torch's meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from analyzers.errors import ParameterError
from pipeline.archive.types import TensorHeader
from pipeline.models.offline import NEVER_FROM_ARCHIVES, offline, without_pretrained

_HEADS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM", "AutoModel")


def headers_of(config: Mapping[str, Any], dtype: str, where: str) -> tuple[TensorHeader, ...]:
    """Name, shape and bytes of every parameter, tied ones once, as a checkpoint of this config in `dtype` holds them.

    The class is the one that `architectures` names, else the causal language model of its `model_type`, else what
    there is. Raises `ParameterError` that names `where`.
    """
    try:
        import transformers
    except ImportError as error:
        raise ParameterError(
            f"{where}: shapes from a config need transformers: pip install -e '.[hf]' in varve's folder"
        ) from error
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ParameterError(
            f"{where}: dtype {dtype!r} is unknown to torch; use for example bfloat16, float16 or float32"
        )
    settings = {
        key: value for key, value in config.items() if key not in (*NEVER_FROM_ARCHIVES, "dtype", "torch_dtype")
    }
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ParameterError(
            f"{where}: the config has no model_type, which transformers needs to find the architecture"
        )
    try:
        with offline():
            made = transformers.AutoConfig.for_model(model_type, **settings)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ParameterError(
            f"{where}: transformers cannot read this config: {' '.join(str(error).split())[:300]}"
        ) from error
    without_pretrained(made)
    with offline(), torch.device("meta"):
        model = _model(transformers, made, config, where)
    itemsize = getattr(torch, dtype).itemsize
    found = [(name, tuple(value.shape)) for name, value in model.named_parameters()]  # tied ones come once
    return tuple(TensorHeader(name, dtype, shape, itemsize * torch.Size(shape).numel()) for name, shape in found)


def _model(transformers: Any, made: Any, config: Mapping[str, Any], where: str) -> torch.nn.Module:
    named = [getattr(transformers, str(name), None) for name in config.get("architectures") or ()]
    for cls in (c for c in named if isinstance(c, type) and issubclass(c, torch.nn.Module)):
        return cls(made)
    for name in _HEADS:
        auto = getattr(transformers, name)
        if type(made) in auto._model_mapping:
            model: torch.nn.Module = auto.from_config(made)
            return model
    raise ParameterError(f"{where}: transformers has no model of type {made.model_type!r}")
