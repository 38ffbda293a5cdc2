"""A worker learns of cancelled jobs also when its watch hears nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.jobs import JobState
from accelerator_autopilot.inference.worker.application import cancellations
from accelerator_autopilot.inference.worker.application.cancellations import Cancellations
from accelerator_autopilot.transport.clock import utc_now
from tests.support.poison import poison_rule
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]


class Deaf(Cancellations):
    """Its watch was lost with a server."""

    async def _watch(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def hearing(nc: Client) -> AsyncIterator[dict[str, Any]]:
    """Jobs that the worker takes for cancelled."""
    found: dict[str, Any] = {}
    state: Any = SimpleNamespace(cancel=found.__setitem__)
    js = nc.jetstream()
    task = asyncio.create_task(Deaf(nc, js, state, poison_rule(js)).run())
    try:
        yield found
    finally:
        task.cancel()


async def cancel(nc: Client, job_id: str, *, cancelled: bool = True) -> None:
    kv = await nc.jetstream().key_value("jobs")
    await kv.put(subjects.token(job_id), JobState(cancelled=cancelled, at=utc_now()).model_dump_json().encode())


async def test_it_reads_again_now_and_then(nc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellations, "RECHECK_S", 0.5)
    await cancel(nc, "first")
    async with hearing(nc) as heard:
        await eventually(lambda: list(heard) == ["first"], 10)
        await (await nc.jetstream().key_value("jobs")).put("odd", b"{")
        await cancel(nc, "tried", cancelled=False)
        await cancel(nc, "batch.1")
        await eventually(lambda: list(heard) == ["first", "batch.1"], 10)


async def test_it_reads_again_at_once_after_a_new_connection(nc: Client) -> None:
    await cancel(nc, "first")
    async with hearing(nc) as heard:
        await eventually(lambda: "first" in heard, 10)
        await cancel(nc, "second")
        await nc.force_reconnect()
        await eventually(lambda: "second" in heard, 10)
