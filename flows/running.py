"""How pieces of work are called: plainly, or each as a Prefect task. The stages of an analysis know only `Runner`."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from analyzers.errors import VarveError
from pipeline.archive.text import utf8

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State
    from prefect.futures import PrefectFuture

Item = TypeVar("Item")
Answer = TypeVar("Answer")
RETRIES = 2
RETRY_DELAYS = (0.5, 2.0)
"""Seconds before the second and the third attempt: a network file system that stumbled is often back by then."""


@dataclass(frozen=True)
class Failed:
    """A piece of work that did not succeed, after its retries."""

    error: Exception
    trace: str

    @property
    def reason(self) -> str:
        """One line for a list: our own errors speak for themselves, others carry their type."""
        text = str(self.error) or type(self.error).__name__
        return text if isinstance(self.error, VarveError) else f"{type(self.error).__name__}: {text}"


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


class Runner(Protocol):
    """Calls a function on each item; an item that fails costs only itself."""

    def each(
        self,
        name: str,
        work: Callable[[Item], Answer],
        items: Sequence[Item],
        label: Callable[[Item], str],
        here: bool = False,
    ) -> Iterator[Answer | Failed]:
        """Answers in the order of `items`. `name` and `label` are for whoever watches; `here`: one after the other,
        in the calling thread."""
        ...


def worth_retrying(error: BaseException) -> bool:
    """A verdict of ours about the data stays the same; what the surroundings did may pass."""
    return isinstance(error, Exception) and not isinstance(error, VarveError)


class PlainRunner:
    """One after the other in this thread, with the same retries as the tasks."""

    def each(
        self,
        name: str,
        work: Callable[[Item], Answer],
        items: Sequence[Item],
        label: Callable[[Item], str],
        here: bool = False,
    ) -> Iterator[Answer | Failed]:
        """See `Runner.each`."""
        pause = threading.Event()
        for item in items:
            for delay in (*RETRY_DELAYS, None):
                try:
                    answer: Answer | Failed = work(item)
                except Exception as error:  # the boundary of one piece of work: it is reported, the rest goes on
                    answer = Failed(error, traceback.format_exc())
                    if delay is not None and worth_retrying(error):
                        pause.wait(delay)
                        continue
                break
            yield answer


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
            retries=RETRIES,
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
