"""Jobs side by side, whose results one thread takes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Crew(Generic[Result]):
    """Runs jobs in threads of their own; a crew of one runs each at once, where it is begun.

    Attributes:
        waiting: jobs that were begun and whose results were not taken.
        error: that of the first job that failed; no others should be begun then.
    """

    def __init__(self, size: int) -> None:
        self._alone = size == 1
        self._done: queue.SimpleQueue[tuple[Result] | BaseException] = queue.SimpleQueue()
        self.waiting = 0
        self.error: BaseException | None = None

    def begin(self, job: Callable[..., Result], *arguments: Any) -> None:
        """Begin a job."""
        if self._alone:
            self._done.put((job(*arguments),))
        else:
            threading.Thread(target=self._run, args=(job, arguments)).start()
        self.waiting += 1

    def done(self) -> Iterator[Result]:
        """Wait for a job and yield its result; nothing if it failed."""
        found = self._done.get()
        self.waiting -= 1
        if isinstance(found, BaseException):
            self.error = self.error or found
        else:
            yield found[0]

    def end(self) -> None:
        """Raise what the first job that failed raised, now that all are done.

        Raises:
            BaseException: that.
        """
        if self.error is not None:
            raise self.error

    def _run(self, job: Callable[..., Result], arguments: tuple[Any, ...]) -> None:
        try:
            self._done.put((job(*arguments),))
        except BaseException as error:
            self._done.put(error)
