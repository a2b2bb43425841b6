"""Jobs in threads, or, where only one may run at a time, in the thread that asks for it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@contextmanager
def job_slots(slots: int) -> Iterator[Executor]:
    """Yield what runs up to `slots` jobs at once; with one slot it starts no thread.

    TVM's compiler then stays in the thread of the caller, and signals interrupt the job. An
    exception in the block ends it at once: jobs that run are not waited for, others are dropped.
    """
    executor = ThreadPoolExecutor(slots) if slots > 1 else _CallingThread()
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class _CallingThread(Executor):
    """Runs each job when it is submitted; what the job raises, `submit` raises."""

    def submit(
        self,
        job: Callable[_Parameters, _Result],
        /,
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> Future[_Result]:
        future: Future[_Result] = Future()
        future.set_result(job(*args, **kwargs))
        return future
