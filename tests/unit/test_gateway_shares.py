"""One caller leaves room to the others: requests at once, answers that are not taken, ends of jobs that were missed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn

from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.contracts.errors import NotFoundError
from accelerator_autopilot.contracts.messages.jobs import JobResult
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.gateway.application.admission import Admission, Quota
from accelerator_autopilot.gateway.application.quota_reconciliation import (
    CHECKED_AT_ONCE,
    DOUBTFUL_AFTER_S,
    reconcile,
)
from accelerator_autopilot.gateway.http.server_protocol import TimedProtocol
from tests.support.builders import T0
from tests.support.waiting import eventually

SIZE = 40 * 2**20


async def large(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(SIZE).encode())]})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


async def test_an_answer_that_nobody_takes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimedProtocol, "taken_s", 0.5)
    port = take_port(0, "gateway")
    server = uvicorn.Server(
        uvicorn.Config(large, port=port, http=TimedProtocol, ws="none", lifespan="off", log_config=None)
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    try:
        stuck = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        stuck[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        slow, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        taken = 0
        while data := await slow.read(2**18):
            taken += len(data)
            await asyncio.sleep(0.01)
        assert taken > SIZE, "who takes a little all the time gets everything"
        await eventually(lambda: not server.server_state.connections, 10)
        stuck[1].close()
        writer.close()
    finally:
        server.should_exit = True
        await serving


async def test_a_job_whose_end_was_missed_counts_no_more() -> None:
    admission = Admission(Quota(jobs_per_minute=1000, unfinished=10, fair_share=3), queue_limit=1000)
    admission.submitted("ada", ["ended", "gone", "runs", "later"], 0.0)
    result = JobResult(job_id="ended", kind="echo", status="succeeded", submitted_at=T0, finished_at=T0)
    asked: list[str] = []

    async def view(job_id: str) -> JobView:
        asked.append(job_id)
        if job_id == "gone":
            raise NotFoundError("gone")
        done = result if job_id == "ended" else None
        return JobView(id=job_id, kind="echo", state="succeeded" if done else "queued", result=done)

    await reconcile(admission, view, DOUBTFUL_AFTER_S - 1)
    assert asked == [], "most end by themselves"
    await reconcile(admission, view, DOUBTFUL_AFTER_S + 1)
    assert asked == ["ended", "gone", "runs", "later"]
    assert admission._accounts["ada"].unfinished == {"runs", "later"}


def test_doubtful_jobs_take_turns() -> None:
    admission = Admission(Quota(jobs_per_minute=10_000, unfinished=10_000, fair_share=3), queue_limit=10_000)
    jobs = [f"j{number}" for number in range(CHECKED_AT_ONCE + 50)]
    admission.submitted("ada", jobs, 0.0)
    first, second = admission.doubtful(1.0, CHECKED_AT_ONCE), admission.doubtful(1.0, CHECKED_AT_ONCE)
    assert second[:50] == jobs[CHECKED_AT_ONCE:]
    assert set(first) | set(second) == set(jobs)
