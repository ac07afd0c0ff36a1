"""Runs the subjects and prints their tables."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import time
from pathlib import Path

from tests.benchmarks.calibration.rows import table

SUBJECTS = sorted(
    module.name
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if module.name not in ("__main__", "rows")
)


def main() -> None:
    """See the package."""
    parser = argparse.ArgumentParser(description="Error rates, measured.")
    parser.add_argument("--only", choices=SUBJECTS, help="one subject")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the trials, for a quick look")
    arguments = parser.parse_args()
    for subject in [arguments.only] if arguments.only else SUBJECTS:
        started = time.process_time()
        rows = importlib.import_module(f"tests.benchmarks.calibration.{subject}").rows(arguments.scale)
        print(f"\n## {subject} ({time.process_time() - started:.0f} CPU s)\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
