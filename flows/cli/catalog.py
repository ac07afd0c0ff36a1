"""`varve catalog list|show|make`: named archives, and the small ones that can be trained here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from analyzers.errors import ParameterError
from flows.cli.options import AsJson
from flows.cli.words.console import json_text, say, table

app = typer.Typer(
    help="Named archives: list them, show one, or train a demo archive for real.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(help="Name of the entry, from `varve catalog list`.")]


@app.command("list")
def list_entries(as_json: AsJson = False) -> None:
    """List the archives that the catalog knows.

    Your own entries: put YAML files into a folder and name it in VARVE_CATALOG.
    """
    import data_catalog

    entries = data_catalog.entries()
    if as_json:
        say(json_text([e.model_dump(mode="json") for e in entries]))
        return
    rows = [(e.name, e.title, e.path, f"{e.recipe.minutes:g} min to make" if e.recipe else "") for e in entries]
    say(table(("name", "title", "path", "recipe"), rows))


@app.command("show")
def show(name: Name, as_json: AsJson = False) -> None:
    """Show one entry: where it lies, how it is read, how it can be made."""
    import yaml

    import data_catalog

    shown = data_catalog.entry(name).model_dump(mode="json", exclude_none=True)
    if as_json:
        say(json_text(shown))
    else:
        say(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100).rstrip())


@app.command("make")
def make(
    name: Name,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to.  [default: the entry's path]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An argument of the recipe (`varve catalog show NAME`); repeatable."
        ),
    ] = None,
) -> None:
    """Train a demo archive, for real, on this machine.

    \b
      varve catalog make demo --out demo/archive
      varve analyze demo/archive --out demo/out
      varve catalog make grokking-moe --set seeds=[1,2,3]

    Runs that are complete are kept: an interrupted make goes on with the next run.
    """
    import data_catalog

    folder = data_catalog.make(name, out, say, _arguments(set_ or []))
    say(f"Made {folder}")


def _arguments(given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words; a value is read as YAML. Raises `ParameterError`."""
    import yaml

    found: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParameterError(f"--set {word!r}: {value!r} is not a YAML value: {error}") from error
        if not key or not equals:
            raise ParameterError(f"--set {word!r}: write it as KEY=VALUE, as in seeds=[1,2,3]")
    return found
