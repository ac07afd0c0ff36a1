"""The typer application: verbs, help, and how errors become one clear message and an exit code."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from flows.cli import analyze, catalog, doctor, export, ingest, inspect, plan, report, schedule, verify
from flows.cli.words.console import complain, discard_output, say

_SURROUNDINGS = {
    errno.ENOSPC: "Free some space, or give another --out or --store; then run the same command to continue.",
    errno.EDQUOT: "The quota is used up: free some space, or give another --out or --store.",
    errno.EROFS: "The file system is read-only: give another --out or --store.",
    errno.EACCES: "Change its permissions, or give another --out or --store.",
    errno.EPERM: "Change its permissions, or give another --out or --store.",
    errno.EEXIST: "There is a file where a folder is needed: give another --out or --store.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.ELOOP: "A symbolic link leads to itself: give another path.",
    errno.ENOTDIR: "There is a file where a folder is needed: give another --out or --store.",
}

OK, FOUND, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130

_ABOUT = """Reads training checkpoints layer by layer: checkpoints go in, a report of their spectra comes out.

\b
  varve inspect RUNS/                 what is there (reads headers only)
  varve plan RUNS/                    what it would cost: time, bytes, memory (reads headers only)
  varve analyze RUNS/ --out out/      everything: store, statistics, report.zarr, report.html
  varve analyze RUNS/ --out out/      again, with new checkpoints: computes only what is new
  varve doctor                        what is wrong with this installation, and how to fix it

\b
Exit codes: 0 everything was done · 1 `doctor` found a problem · 2 wrong usage, or nothing to work on ·
3 finished, but something could not be read or measured (listed) · 130 interrupted (run the same command to finish)

--debug, anywhere on the line, shows the full traceback of an error.
"""

app = typer.Typer(
    help=_ABOUT,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        _version()
        raise typer.Exit()


def _version() -> None:
    """Print the version."""
    from flows.cli.version import version

    say(f"varve {version()}")


app.command("analyze", short_help="Everything: store, statistics, report (alias: analyse).")(analyze.analyze)
app.command("analyse", hidden=True)(analyze.analyze)
app.command("inspect", short_help="What an archive holds; reads headers only.")(inspect.inspect)
app.command("plan", short_help="What an analysis would cost, before anything runs.")(plan.plan)
app.command("ingest", short_help="Copy checkpoints into a Zarr store, bit for bit.")(ingest.ingest)
app.command("report", short_help="Rebuild the report from a store, without the weights.")(report.report)
app.command("export", short_help="Write a report as netCDF, CSV, Parquet or JSON.")(export.export)
app.command("verify", short_help="Check stored data against its digests.")(verify.verify)
app.command("schedule", short_help="Analyse new checkpoints every night.")(schedule.schedule)
app.command("doctor", short_help="What is wrong with this installation, and how to fix it.")(doctor.doctor)
app.add_typer(catalog.app, name="catalog", short_help="Named archives: list, show, make.")
app.command("version")(_version)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; `--debug` anywhere shows tracebacks."""
    debug = "--debug" in arguments
    given = [a for a in arguments if a != "--debug"]
    from analyzers.errors import VarveError
    from data_catalog.entry import CatalogError
    from pipeline.store.documents import brief

    try:
        result = app(given, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except (BrokenPipeError, SystemExit):  # a reader has gone; typer exits with 1 then
        discard_output()
        return OK
    except (VarveError, CatalogError) as error:
        if debug:
            raise
        complain(f"varve: {error}")
        return USAGE
    except OSError as error:
        if debug or error.errno not in _SURROUNDINGS:
            raise
        verb = "use" if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else "write"
        complain(
            f"varve: cannot {verb} {brief(str(error.filename or 'the output'))}: {error.strerror}. "
            f"{_SURROUNDINGS[error.errno]}"
        )
        if error.filename is None:  # stdout itself, which Python would try again at exit
            discard_output()
        return USAGE
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None or not hasattr(error, "exit_code"):
            raise
        show(file=sys.stderr)
        return USAGE
    if result == INTERRUPTED:  # typer also turns an interrupt into this code itself
        complain("\nInterrupted. Nothing is lost: run the same command to continue from here.")
    return result if isinstance(result, int) else OK


def stop_gracefully() -> None:
    """Ctrl-C and SIGTERM close workers and server, and say so at once; the second time ends everything."""
    asked = swallowed = False

    def interrupt(signum: int, frame: object) -> None:
        nonlocal asked, swallowed
        if swallowed:
            swallowed = False
            raise KeyboardInterrupt
        if asked:
            import psutil

            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            os._exit(INTERRUPTED)
        asked = True
        os.write(2, b"\nStopping; once more to stop at once.\n")  # print is not safe inside a signal handler
        raise KeyboardInterrupt

    report = sys.unraisablehook

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        """An interrupt that landed in a destructor or a callback is ignored by Python: it is raised once more."""
        nonlocal swallowed
        if unraisable.exc_type is not KeyboardInterrupt:
            report(unraisable)
            return
        swallowed = True
        threading.Timer(0.05, _thread.interrupt_main).start()  # not at once: that would land in this hook

    if threading.current_thread() is threading.main_thread():
        sys.unraisablehook = again
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
