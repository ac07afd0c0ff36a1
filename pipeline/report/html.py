"""The report as one self-contained HTML page: no script, no request, everything from an archive escaped."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import xarray as xr
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from analyzers.errors import ReportError
from pipeline.report.blocks import LONG, Section
from pipeline.report.sections import page
from pipeline.report.swap import fresh_path, remove, replace_file, sweep


def render(tree: xr.DataTree) -> str:
    """The page's text."""
    return text_of(str(tree.attrs.get("title", "varve report")), str(tree.attrs.get("created", "")), page(tree))


def text_of(title: str, created: str, sections: Sequence[Section]) -> str:
    """The text of a page of these sections."""
    folder = files("pipeline.report") / "templates"
    sources = {name: (folder / name).read_text(encoding="utf-8") for name in ("report.html.jinja", "report.css")}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("report.html.jinja")
    css = Markup(sources["report.css"])  # our own file, the only text that is not escaped
    return template.render(title=title, created=created, css=css, sections=sections, long=LONG)


def write_html(tree: xr.DataTree, path: Path | str) -> Path:
    """Writes the page, whole or not at all, and returns its path. Raises `ReportError` where it cannot be written."""
    target = Path(path)
    text = render(tree)
    try:
        fresh = fresh_path(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        try:
            fresh.write_bytes(text.encode("utf-8", "backslashreplace"))
            replace_file(fresh, target)
        finally:
            if fresh.exists():
                remove(fresh)
    except OSError as error:
        raise ReportError(f"cannot write {target}: {error}") from error
    return target
