"""How pieces of work are called. The stages of an analysis know only `Runner`: plain calls here, Prefect tasks in
`flows`."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from analyzers.errors import VarveError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
RETRY_DELAYS = (0.5, 2.0)
"""Seconds before the second and the third attempt: a network file system that stumbled is often back by then."""


@dataclass(frozen=True)
class Failed:
    """A piece of work that did not succeed, after its retries."""

    error: Exception
    trace: str

    @property
    def reason(self) -> str:
        """One line for a list: our own errors explain themselves, others are prefixed with their type."""
        text = str(self.error) or type(self.error).__name__
        return text if isinstance(self.error, VarveError) else f"{type(self.error).__name__}: {text}"


class Runner(Protocol):
    """Calls a function on each item; where one item fails, the others go on."""

    def each(
        self,
        name: str,
        work: Callable[[Item], Answer],
        items: Sequence[Item],
        label: Callable[[Item], str],
        here: bool = False,
    ) -> Iterator[Answer | Failed]:
        """Answers in the order of `items`. `name` and `label` are shown to the user; `here`: one after the other,
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
