"""Tasks by name: a YAML file, "digits" (which ships), or a user's "package.module:factory"; each with its digest."""

from __future__ import annotations

import inspect
from pathlib import Path

from analyzers.errors import ParameterError
from analyzers.intrinsic_dimension.task import Data, Task
from pipeline.archive.recipes import digest
from pipeline.archive.text import real_path
from pipeline.models.task_file import ArrayTask, TaskFile, read_task_file

BUILT_IN = Path(__file__).parent / "builtin"
_ATTRIBUTES = ("name", "metric", "reference_score", "training", "ensembles")
_METHODS = ("data", "build", "loss", "scores", "shuffled")


def built_in_tasks() -> tuple[str, ...]:
    """Names of the tasks that ship."""
    return tuple(sorted(path.stem for path in BUILT_IN.glob("*.yaml")))


def read_task(source: str) -> tuple[str, str, Task]:
    """(name, digest, task). The digest is over the description and the bytes of every file that it names.

    Raises `ParameterError` for a source that is none, and for data that cannot be learned from.
    """
    path = real_path(Path(source).expanduser())
    if source in built_in_tasks():  # whatever else is called so in this folder: a path has a separator or a suffix
        path = BUILT_IN / f"{source}.yaml"
    if path.is_file():
        return _from_file(path)
    if ":" in source:
        return _from_factory(source)
    what = "is a folder, not a task" if path.is_dir() else "is not a task"
    raise ParameterError(
        f"--task {source!r} {what}: give a YAML file, package.module:factory, or the name of a built-in task "
        f"({', '.join(built_in_tasks())})"
    )


def _from_file(path: Path) -> tuple[str, str, Task]:
    told = read_task_file(path)
    if isinstance(told, ArrayTask):
        from pipeline.models.array_task import read_array_task

        task, files = read_array_task(told, path.parent)
        return told.name, digest([_described(told), files]), task
    from pipeline.models.text_task import read_text_task

    text, files = read_text_task(told, path.parent)
    return told.name, digest([_described(told), files]), text


def _described(told: TaskFile) -> object:
    """The description without the places of its files: moved data are the same data."""
    described = told.model_dump(mode="json")
    return {key: value for key, value in described.items() if key not in ("data", "tokenizer", "name")}


def _from_factory(source: str) -> tuple[str, str, Task]:
    from pipeline.models.factories import import_factory

    made = import_factory(source, "--task")()
    lacking = [name for name in (*_ATTRIBUTES, *_METHODS) if not hasattr(made, name)]
    if lacking:
        raise ParameterError(
            f"--task {source}: {type(made).__name__} has no {', '.join(lacking)}; "
            "see analyzers.intrinsic_dimension.task"
        )
    task: Task = made
    sizes = []
    for split in ("train", "tune", "score"):
        data = task.data(split)
        if not isinstance(data, Data) or not len(data):
            raise ParameterError(
                f"--task {source}: data({split!r}) must be a Data with examples, got {type(data).__name__}"
            )
        sizes.append([len(data), *(_fingerprint(part) for part in (*data.inputs, data.targets))])
    training = task.training
    described = [source, inspect.getsource(type(made)), vars(training), sizes]
    return task.name, digest(described), task


def _fingerprint(tensor: object) -> str:
    import blake3
    import torch

    assert isinstance(tensor, torch.Tensor)
    return blake3.blake3(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest(length=16)
