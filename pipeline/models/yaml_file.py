"""YAML files that a user names on the command line, read with errors that say which option and which file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from analyzers.errors import ParameterError


def read_yaml(path: Path, option: str) -> Any:
    """What the file holds. Raises `ParameterError` that names `option` ("--probe") and the file."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{option} {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{option} {path}: not valid YAML or JSON: {error}") from error
