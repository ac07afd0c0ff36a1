"""Entry point of `varve`: the first line, then the verb.

Nothing heavy is imported before the first line stands on the screen; each verb imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flows.cli.version import version
from flows.cli.words.console import complain, discard_output, ensure_streams, say, survive_any_text
from flows.shadowing import put_ours_first, sentence, shadowed

VERBS = (
    "analyze", "analyse", "inspect", "plan", "ingest", "report", "export", "verify", "schedule", "doctor", "catalog",
)  # fmt: skip
_SILENT = {"--help", "-h", "--json", "--version"}


def first_line(arguments: Sequence[str]) -> str | None:
    """What to print at once; None for help, version and JSON, whose output is the answer itself."""
    if not arguments or arguments[0] not in VERBS or _SILENT.intersection(arguments):
        return None
    if arguments[0] == "catalog" and arguments[1:2] != ["make"]:
        return None
    verb = "analyze" if arguments[0] == "analyse" else arguments[0]
    subject = next((a for a in arguments[1:] if not a.startswith("-")), "")
    return f"varve {version()} · {verb} {subject}".rstrip()


def main() -> None:
    """The console script. Exit codes: 0 all done, 1 doctor found something, 2 usage, 3 partly, 130 interrupted."""
    ensure_streams()
    survive_any_text()
    arguments = sys.argv[1:]
    if shadowed():
        if arguments[:1] != ["doctor"]:
            for name, place in shadowed().items():
                complain(f"varve: {sentence(name, place)}")
            sys.exit(2)
        put_ours_first()
    line = first_line(arguments)
    try:
        if line is not None:
            say(line)
    except OSError as error:  # a full disk, or a reader that has gone
        discard_output()
        complain(f"varve: cannot write the output: {error.strerror}")
        sys.exit(2)
    from flows.cli.app import run, stop_gracefully

    stop_gracefully()
    sys.exit(run(arguments))


if __name__ == "__main__":  # spawned Dask workers import this module anew and must not start a second command
    main()
