"""The console script: sees whether a module of the current folder stands before one of varve's packages, then runs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def check_not_shadowed() -> None:
    """ImportError with the file and the way out where the package `flows` is not ours; `flows` looks at the rest."""
    spec = find_spec("flows")
    place = Path(spec.origin).resolve() if spec and spec.origin else None
    if place is not None and place != _ROOT / "flows" / "__init__.py":
        raise ImportError(f"{place} shadows varve's own package 'flows': rename or move it, or work in another folder")
    from flows.shadowing import require_own_packages

    require_own_packages()


def main() -> None:
    """`varve` on the command line."""
    try:
        check_not_shadowed()
    except ImportError as error:
        doctor = sys.argv[1:2] == ["doctor"]
        if not doctor or "'flows'" in str(error):  # without `flows` there is no doctor
            print(f"varve: {error}", file=sys.stderr)
            sys.exit(1 if doctor else 2)
    from flows.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
