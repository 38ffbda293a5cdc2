"""The client for programs without an event loop: the same calls, each waits for its answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from accelerator_autopilot.client.batches import BatchView
from accelerator_autopilot.client.connection import AutopilotClient
from accelerator_autopilot.client.jobs import JobView
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult
from accelerator_autopilot.transport.settings import NatsSettings


class SyncAutopilot:
    """Talks to a running Autopilot from ordinary code, over one connection in a thread of its own.

    >>> with SyncAutopilot(NatsSettings()) as autopilot:                # doctest: +SKIP
    ...     vectors = autopilot.run("embed", {"texts": ["hello"]})["vectors"]
    """

    def __init__(self, settings: NatsSettings, *, name: str = "client", actor: str = "operator") -> None:
        self._client = AutopilotClient(settings, name=name, actor=actor)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Connect. Raises UnavailableError when no server answers."""
        with ExitStack() as opening:
            # Whatever fails here ends the thread too: it would keep the program from ending.
            self._portal: BlockingPortal = opening.enter_context(start_blocking_portal())
            opening.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._stack.__exit__(kind, value, trace)

    def submit(self, kind: str, payload: dict[str, Any], **options: Any) -> str:
        """Submit a job and return its id."""

        async def work() -> str:
            return (await self._client.jobs.submit(kind, payload, **options)).id

        return self._portal.call(work)

    def wait(self, job_id: str, timeout_s: float = 60.0) -> JobResult:
        """Wait for a job's result."""
        return self._portal.call(self._client.jobs.wait, job_id, timeout_s)

    def run(self, kind: str, payload: dict[str, Any], *, timeout_s: float = 300.0, **options: Any) -> Any:
        """Submit a job and return its output. Raises JobFailedError when it ended without one."""
        return self._portal.call(self._client.jobs.output, self.submit(kind, payload, **options), timeout_s)

    def stream(self, kind: str, payload: dict[str, Any], **options: Any) -> Iterator[JobProgress | JobResult]:
        """Submit a job and yield everything that it tells, its result last."""
        source = self._client.jobs.stream(kind, payload, **options)
        while (told := self._portal.call(anext, source, None)) is not None:
            yield told

    def view(self, job_id: str) -> JobView:
        """What is known of a job."""
        return self._portal.call(self._client.jobs.view, job_id)

    def cancel(self, job_id: str) -> JobResult:
        """End a job that has no result yet."""
        return self._portal.call(self._client.jobs.cancel, job_id)

    def map(
        self, kind: str, payloads: Iterable[Mapping[str, Any]], *, timeout_s: float = 3600.0, **options: Any
    ) -> Iterator[JobResult]:
        """Run one job an input and yield the results in the order of the inputs."""

        async def begin() -> str:
            return (await self._client.batches.map(kind, payloads, **options)).id

        source = self._client.batches.results(self._portal.call(begin), timeout_s)
        while (result := self._portal.call(anext, source, None)) is not None:
            yield result

    def batch(self, batch_id: str) -> BatchView:
        """How far a batch is."""
        return self._portal.call(self._client.batches.view, batch_id)
