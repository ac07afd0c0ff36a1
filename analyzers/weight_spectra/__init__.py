"""Weight spectra: all singular values of every matrix, and what they say (definitions in docs/weight-spectra.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyzers.weight_spectra.analyzer import WeightSpectra as WeightSpectra
    from analyzers.weight_spectra.merged import MergedSpectra as MergedSpectra

__all__ = ["MergedSpectra", "WeightSpectra"]


def __getattr__(name: str) -> Any:
    """Loads an analyzer, and torch with it, when it is first asked for."""
    if name == "WeightSpectra":
        from analyzers.weight_spectra.analyzer import WeightSpectra

        return WeightSpectra
    if name == "MergedSpectra":
        from analyzers.weight_spectra.merged import MergedSpectra

        return MergedSpectra
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
