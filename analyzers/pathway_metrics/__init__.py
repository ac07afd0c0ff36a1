"""Pathways: how a mixture of experts routes a probe set over training, and what controls say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzers.pathway_metrics.analyzer import PathwayMetrics as PathwayMetrics

__all__ = ["PathwayMetrics"]


def __getattr__(name: str) -> Any:
    """Loads the analyzer, and torch with it, when it is first asked for."""
    if name == "PathwayMetrics":
        from analyzers.pathway_metrics.analyzer import PathwayMetrics

        return PathwayMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
