"""A process whose event loop does not turn any more ends by itself; one that turns, or has stopped, does not."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from accelerator_autopilot.runtime import health
from accelerator_autopilot.runtime.health import HealthServer, HealthState
from tests.support.waiting import eventually


async def test_a_stuck_event_loop_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(health, "end_stuck", ended.append)
    monkeypatch.setattr(health, "LOOP_DEAD_S", 1.0)
    monkeypatch.setattr(health, "CHECK_INTERVAL_S", 0.05)
    state = HealthState("test")
    server = HealthServer(state, CollectorRegistry(), "127.0.0.1", 0)
    server.start()
    try:
        for _ in range(30):
            state.tick()
            await asyncio.sleep(0.05)
        assert ended == []
        await eventually(lambda: ended, 10)
        assert "event loop of test" in ended[0]
    finally:
        server.stop()
