"""Functions that the user names as "package.module:name" on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from analyzers.errors import ParameterError


def import_factory(factory: str, option: str = "--model") -> Callable[..., Any]:
    """What "package.module:name" names. `option`: the flag that it was given with. Raises `ParameterError`."""
    module, _, name = factory.partition(":")
    if not module or not name:
        raise ParameterError(f"{option} {factory!r}: write package.module:factory")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ParameterError(
            f"{option} {factory}: {module} cannot be imported ({error}): is it on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise ParameterError(f"{option} {factory}: {module} has no {name!r}") from error
    if not callable(found):
        raise ParameterError(f"{option} {factory}: {name} is a {type(found).__name__}, not a function")
    return found
