"""What every process has: middlewares that bound their labels, tracing where an endpoint is set."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from faststream.nats import TestNatsBroker
from prometheus_client import CollectorRegistry, generate_latest

from accelerator_autopilot.anomaly.app import create_app
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.runtime.broker import make_broker
from accelerator_autopilot.runtime.settings import ServiceSettings
from accelerator_autopilot.runtime.supervision import cancel_all, run_together


async def test_metrics_are_counted_under_bounded_labels() -> None:
    registry = CollectorRegistry()
    broker = make_broker(ServiceSettings(), "test", registry)

    @broker.subscriber("jobs.*.*")
    async def handle(_: dict[str, Any]) -> None: ...

    async with TestNatsBroker(broker) as running:
        for number in range(20):
            await running.publish({"a": 1}, f"jobs.echo.p{number}")
    text = generate_latest(registry).decode()
    assert 'destination="jobs.echo"' in text or 'handler="jobs.echo"' in text
    assert "p19" not in text
    assert len(text.splitlines()) < 120


@pytest.mark.parametrize(("error", "counted"), [(InvalidInputError("f", 1, "r"), 1), (UnavailableError("away"), 0)])
async def test_poison_is_counted_and_what_the_bus_is_to_blame_for_is_not(error: Exception, counted: int) -> None:
    registry = CollectorRegistry()
    broker = make_broker(ServiceSettings(), "test", registry)

    @broker.subscriber("some.subject")
    async def handle(_: dict[str, Any]) -> None:
        raise error

    async with TestNatsBroker(broker) as running:
        await running.publish({"a": 1}, "some.subject")
    labels = {"consumer": "some.subject", "error": type(error).__name__}
    assert (registry.get_sample_value("autopilot_messages_poison_total", labels) or 0) == counted


def test_tracing_is_set_up_where_an_endpoint_is() -> None:
    plain = create_app(AnomalySettings())
    traced = create_app(AnomalySettings(otlp_endpoint="http://127.0.0.1:1/v1/traces"))
    assert plain.broker is not None
    assert traced.broker is not None
    assert len(traced.broker.middlewares) == len(plain.broker.middlewares) + 1


async def test_a_task_that_swallows_its_first_cancellation_ends_all_the_same() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel_all([task])
    assert task.cancelled()


async def test_tasks_that_run_together_end_together_also_where_one_swallows_its_cancellation() -> None:
    ended: list[str] = []

    async def stubborn(name: str) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise OSError("the disk is gone")

    together = asyncio.create_task(run_together(stubborn("a"), stubborn("b")))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await cancel_once(together)
        with pytest.raises(OSError, match="the disk is gone"):
            await run_together(stubborn("c"), fail())
    assert sorted(ended) == ["a", "b", "c"]


async def cancel_once(task: asyncio.Task[None]) -> None:
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
