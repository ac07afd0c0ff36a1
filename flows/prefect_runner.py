"""How the pieces of an analysis become Prefect task runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from analyzers.errors import VarveError
from pipeline.analysis.runner import RETRY_DELAYS, Answer, Failed, Item, worth_retrying
from pipeline.archive.text import utf8

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State
    from prefect.futures import PrefectFuture


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Around what Prefect calls: it keeps an error's text as JSON, which cannot hold a path that is no text."""
    try:
        yield
    except Exception as error:  # raised again, in its own type where that is ours
        text = str(error)
        if utf8(text) == text:
            raise
        if type(error).__init__ is VarveError.__init__:
            raise type(error)(utf8(text)).with_traceback(error.__traceback__) from None
        raise RuntimeError(f"{type(error).__name__}: {utf8(text)}").with_traceback(error.__traceback__) from None


class PrefectRunner:
    """Each item one Prefect task run, on the flow's thread pool. Only used inside a flow."""

    def each(
        self,
        name: str,
        work: Callable[[Item], Answer],
        items: Sequence[Item],
        label: Callable[[Item], str],
        here: bool = False,
    ) -> Iterator[Answer | Failed]:
        """See `Runner.each`."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        # A task gets the item's index: Prefect walks through every argument, and a checkpoint has thousands of parts.
        def one(index: int) -> Answer:
            with errors_as_text():
                return work(items[index])

        runs = task(
            name=name,
            task_run_name=lambda: _label(items, label),
            retries=len(RETRY_DELAYS),
            retry_delay_seconds=list(RETRY_DELAYS),
            retry_condition_fn=lambda _task, _run, state: worth_retrying(_exception_of(state)),
            persist_result=False,
            cache_policy=NO_CACHE,
        )(one)
        states: Iterable[State[Answer]]
        if here:
            states = (runs(index, return_state=True) for index in range(len(items)))
        else:
            futures = [runs.submit(index) for index in range(len(items))]
            states = (_finished(future) for future in futures)
        for state in states:
            if state.is_completed():
                yield state.result()
            else:
                error = _exception_of(state)
                yield Failed(error, "".join(traceback.format_exception(error)))


def _finished(future: PrefectFuture[Answer]) -> State[Answer]:
    future.wait()
    return future.state


def _label(items: Sequence[Item], label: Callable[[Item], str]) -> str:
    from prefect.runtime import task_run

    return utf8(label(items[task_run.parameters["index"]]))


def _exception_of(state: object) -> Exception:
    from prefect.states import get_state_exception

    error = get_state_exception(state)  # type: ignore[arg-type]  # async in name only: sync here
    return error if isinstance(error, Exception) else RuntimeError(str(error))
