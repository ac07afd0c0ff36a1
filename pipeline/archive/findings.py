"""What goes wrong, or is left out on purpose, while an archive is listed."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.archive.text import encodable, path_text
from pipeline.archive.types import Problem


@dataclass
class Findings:
    """Problems and notes, with paths relative to the archive's root. `others` counts, by suffix, the files that are no
    weights: a message that nothing was found names them."""

    root: Path
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    _training_state: dict[Path, list[str]] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        """The path below the root as text, with forward slashes."""
        return path_text(Path(os.path.relpath(path, self.root)).as_posix())

    def made(self, path: Path, reason: object, hint: str = "", tensor: str | None = None) -> Problem:
        """A problem with one file; an error's message loses the path that it begins with."""
        if isinstance(reason, OSError):
            reason = reason.strerror or reason
        return Problem(self.relative(path), str(reason).removeprefix(f"{path}: "), tensor, hint)

    def problem(self, path: Path, reason: object, hint: str = "") -> None:
        """Something that could not be read, and is listed."""
        self.problems.append(self.made(path, reason, hint))

    def note(self, path: Path, text: str) -> None:
        """Something that was ignored by design; `notes_by_run` tells which run it belongs to."""
        self.notes.append(encodable(text if path == self.root else f"{self.relative(path)}: {text}"))

    def training_state(self, path: Path) -> None:
        """An optimizer's file or the like: the files of one folder become one note, see `close`."""
        self._training_state.setdefault(path.parent, []).append(path.name)

    def close(self) -> None:
        """Adds the notes that gather several files."""
        for folder, names in self._training_state.items():
            self.note(folder, "ignored as training state: " + ", ".join(_numbered_together(names)))
        self._training_state.clear()

    def hint(self, text: str) -> None:
        """A note that the reader should act on, or know before anything is computed."""
        self.hints.append(text)
        self.notes.append(text)


def _numbered_together(names: Iterable[str]) -> list[str]:
    """Names in order; those that differ only in numbers as one: "rng_state_*.pth (8 files)"."""
    forms: dict[str, list[str]] = defaultdict(list)
    for name in names:
        forms[re.sub(r"\d+", "*", name)].append(name)
    return [f"{form} ({len(of)} files)" if len(of) > 1 else of[0] for form, of in sorted(forms.items())]
