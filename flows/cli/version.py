"""The version of the installed distribution."""

from __future__ import annotations


def version() -> str:
    """Of the installed distribution."""
    from importlib import metadata

    try:
        return metadata.version("varve")
    except metadata.PackageNotFoundError:
        return "(not installed)"
