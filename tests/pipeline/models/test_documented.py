"""What the docs say of task and probe files is what the code reads."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from analyzers.intrinsic_dimension.task import Data
from pipeline.models import probes
from pipeline.models.array_task import FRACTIONS
from pipeline.models.task_data import split
from pipeline.models.task_file import ArrayTask, TextTask, TrainingSettings
from pipeline.models.tasks import read_task

DOCS = Path(__file__).parents[3] / "docs"
TASKS = (DOCS / "intrinsic-dimension.md").read_text(encoding="utf-8")


def documented() -> str:
    """The first cells of the table of a task's keys."""
    table = TASKS[TASKS.index("**Every key**") : TASKS.index("**Splits.**")]
    return "\n".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))


@pytest.mark.parametrize(("model", "written"), [(ArrayTask, "`{}`"), (TextTask, "`{}`"), (TrainingSettings, ": {}`")])
def test_every_key_of_a_task_is_in_the_docs(model: type[BaseModel], written: str) -> None:
    missing = [name for name in model.model_fields if written.format(name) not in documented()]
    assert [name for name in missing if name != "training"] == []


def test_every_entry_of_a_probe_is_in_the_docs() -> None:
    text = (DOCS / "pathways.md").read_text(encoding="utf-8")
    text = text[text.index("## The probe") : text.index("## The model")]
    cells = "\n".join(re.findall(r"^\|([^|]*)\|", text, re.MULTILINE))
    assert [name for name in (*probes._KINDS, *probes._OTHERS) if f"`{name}`" not in cells] == []


@pytest.mark.parametrize("n", [20, 173, 1797])
def test_the_documented_lines_reproduce_the_split(n: int) -> None:
    (lines,) = re.findall(r"^    order = torch\.randperm.*?\n\n", TASKS, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {"np": np, "torch": torch, "n": n}
    exec(textwrap.dedent(lines), found)
    parts = split(Data((torch.arange(n),), torch.arange(n)), FRACTIONS)
    for name, part in parts.items():
        np.testing.assert_array_equal(found[name], part.targets.numpy(), err_msg=name)


def test_the_documented_task_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r"^    import numpy as np, torch\n.*?\n\n(?=- )", TASKS, re.MULTILINE | re.DOTALL)
    (tmp_path / "documented_task.py").write_text(textwrap.dedent(source))
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", inputs=draw.random((1797, 64), dtype=np.float32), labels=np.arange(1797) % 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name, _, task = read_task("documented_task:Mine")
    assert (name, len(task.data("score"))) == ("mine", 497)
