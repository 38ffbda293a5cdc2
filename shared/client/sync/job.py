"""The handle of a job in programs without an event loop: a future of concurrent.futures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar, cast

from accelerator_autopilot.client.aio.job import AsyncJob
from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.client.loop_thread import LoopThread
from accelerator_autopilot.client.output_parsing import parse_output
from accelerator_autopilot.contracts.errors import JobCancelledError, JobFailedError
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult

R = TypeVar("R")


class Job(Future[R]):
    """A submitted job.

    It is a `concurrent.futures.Future`, so `wait` and `as_completed` of that module take it. Callbacks run in a
    thread of the client and may use the client. In an event loop, a notebook's say, `await job` works too.
    """

    def __init__(self, thread: LoopThread, job: AsyncJob[R]) -> None:
        super().__init__()
        self._thread, self._job, self._settling, self._settled = thread, job, threading.Lock(), False
        self.id, self.kind, self.duplicate = job.id, job.kind, job.duplicate
        thread.call_soon(job.add_done_callback, self._on_end)

    def __repr__(self) -> str:
        """Return the job's kind, id and state."""
        return f"<Job {self.kind} {self.id} {'done' if self.done() else 'pending'}>"

    def result(self, timeout: float | None = None) -> R:
        """Return the result. Raises JobFailedError, JobCancelledError, and TimeoutError after `timeout` seconds."""
        try:
            found = super().result(timeout)
        except JobFailedError:
            raise
        except CancelledError:
            raise JobCancelledError(f"job {self.id} was cancelled") from None
        except TimeoutError:
            raise TimeoutError(self._thread.run(self._job.why_waiting(timeout))) from None
        # The future holds the plain result, so that large ones are parsed in the thread that needs them.
        return cast("R", parse_output(cast("JobResult", found), self._job.model))

    def details(self, timeout: float | None = None) -> JobResult:
        """Return how it ended: status, worker, times, tokens, attempts and the plain output.

        Raises TimeoutError after `timeout` seconds.
        """
        return self._thread.run(self._job.details(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that the job failed with, or None. Raises JobCancelledError and TimeoutError."""
        try:
            return super().exception(timeout)
        except CancelledError:
            raise JobCancelledError(f"job {self.id} was cancelled") from None
        except TimeoutError:
            raise TimeoutError(self._thread.run(self._job.why_waiting(timeout))) from None

    def cancel(self) -> bool:
        """Cancel the job before or during its run; False when it had ended already. Raises UnavailableError."""
        if self.done():
            return self.cancelled()
        ended = self._thread.run(self._job.cancel())
        if ended:
            self._settle(None)
        return ended

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Call `fn(job)` once the job has ended, one callback after another."""
        super().add_done_callback(lambda _: self._thread.call_back(fn, self))

    def progress(self) -> Progress:
        """Yield its progress until it ends; for `for` and for `async for`."""
        return Progress(self._thread, self._job)

    def state(self) -> JobView:
        """Return its current state: queued, scheduled, waiting, succeeded, failed or cancelled.

        Raises NotFoundError.
        """
        return self._thread.run(self._job.state())

    def __await__(self) -> Generator[Any, None, R]:
        """Wait for the result in an event loop."""
        return self._in_loop().__await__()

    async def _in_loop(self) -> R:
        """Return the result, without cancelling the job when the wait is cancelled, as wrapping the future would."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def settle(_: Future[R]) -> None:
            with suppress(RuntimeError):  # that loop may have ended
                loop.call_soon_threadsafe(ended.set)

        super().add_done_callback(settle)
        await ended.wait()
        return self.result()

    def _on_end(self, job: AsyncJob[R]) -> None:
        self._settle(job.ended())

    def _settle(self, end: JobResult | BaseException | None) -> None:
        """Resolve the future, once; None means a cancellation."""
        with self._settling:
            if self._settled:
                return
            self._settled = True
        if end is None or (isinstance(end, JobResult) and end.status == "cancelled"):
            super().cancel()
            self.set_running_or_notify_cancel()
        elif isinstance(end, BaseException):
            self.set_exception(end)
        elif end.status == "succeeded":
            self.set_result(cast("R", end))
        else:
            self.set_exception(_failure(end))


class Progress(Iterator[JobProgress]):
    """The progress of a job."""

    def __init__(self, thread: LoopThread, job: AsyncJob[Any]) -> None:
        self._thread, self._job = thread, job
        self._reports = thread.iterate(job.progress())

    def __next__(self) -> JobProgress:
        """Return the next report, once there is one."""
        return next(self._reports)

    async def __aiter__(self) -> AsyncIterator[JobProgress]:
        """Iterate in an event loop."""
        source = self._job.progress()
        try:
            while True:
                report = await asyncio.wrap_future(self._thread.start(_next(source)))
                if report is None:
                    return
                yield report
        finally:
            self._thread.start(_close(source))


async def _next(source: AsyncIterator[JobProgress]) -> JobProgress | None:
    return await anext(source, None)


async def _close(source: AsyncIterator[JobProgress]) -> None:
    await cast("AsyncGenerator[JobProgress]", source).aclose()


def _failure(result: JobResult) -> JobFailedError:
    try:
        parse_output(result, None)
    except JobFailedError as error:
        return error
    return JobFailedError(f"job {result.job_id} {result.status}")
