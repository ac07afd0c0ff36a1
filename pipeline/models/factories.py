"""Functions that the user names as "package.module:name" on the command line."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

from analyzers.errors import ParameterError


def import_factory(factory: str, option: str = "--model") -> Callable[..., Any]:
    """What "package.module:name" names. `option`: the flag that it was given with.

    Raises `ParameterError` where the module cannot be imported, has no such name, or the name is no function.
    """
    module, _, name = factory.partition(":")
    if not module or not name:
        raise ParameterError(f"{option} {factory!r}: write package.module:factory")
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise ParameterError(
            f"{option} {factory}: {module} cannot be imported ({error}): is it on PYTHONPATH?"
        ) from error
    except Exception as error:  # the module is the user's: it may raise anything while it is imported
        raise ParameterError(
            f"{option} {factory}: importing {module} raises {type(error).__name__}: {error}"
        ) from error
    found = getattr(imported, name, None)
    if not callable(found):
        if hasattr(imported, name):
            raise ParameterError(f"{option} {factory}: {name} is a {type(found).__name__}, not a function")
        near = difflib.get_close_matches(name, dir(imported), n=1)
        raise ParameterError(
            f"{option} {factory}: {module} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return found
