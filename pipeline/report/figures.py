"""A matplotlib figure as a self-contained image: SVG or PNG, whichever is smaller. No pyplot, no global state."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from pipeline.report.style import RC

SMALL_SVG = 40_000
"""Bytes of SVG below which a PNG of the same figure was never smaller, so that it is not tried."""
PNG_DPI = 160


@dataclass(frozen=True)
class Image:
    """A figure of the report: `uri` is a data: URI; width and height are CSS pixels. `alt` says what it shows."""

    title: str
    caption: str
    alt: str
    uri: str
    width: int
    height: int
    kind: str = "image"


@contextmanager
def canvas(width: float, height: float) -> Iterator[Canvas]:
    """A figure of width × height inches, drawn in the report's style."""
    with mpl.rc_context(cast(Any, RC)):  # matplotlib's stub lists every key as a literal
        figure = Canvas(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


def place(
    figure: Canvas,
    columns: int = 1,
    rows: int = 1,
    left: float = 0.78,
    right: float = 0.12,
    top: float = 0.1,
    bottom: float = 0.5,
    apart: tuple[float, float] = (0.55, 0.85),
) -> None:
    """Sets margins and gaps (`apart`: between columns, between rows) in inches. Nothing is measured: matplotlib's own
    layout draws every text several times, which was half of the time of a page."""
    width, height = figure.get_size_inches()
    wide = max((width - left - right - (columns - 1) * apart[0]) / columns, 0.2)
    high = max((height - top - bottom - (rows - 1) * apart[1]) / rows, 0.2)
    figure.subplots_adjust(
        left / width, bottom / height, 1 - right / width, 1 - top / height, apart[0] / wide, apart[1] / high
    )


def image(figure: Canvas, title: str, caption: str, alt: str) -> Image:
    """Renders within `canvas`' context. The canvases are called directly: `savefig` would draw everything twice."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    uri = _data_uri("image/svg+xml", svg)
    if len(svg) > SMALL_SVG:
        figure.set_dpi(PNG_DPI)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        if len(buffer.getvalue()) < len(svg):
            uri = _data_uri("image/png", buffer.getvalue())
    return Image(title, caption, alt, uri, width, height)


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
