"""Whoever asks is answered at once, also where the request is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.notifications import DeliveryReply
from accelerator_autopilot.contracts.messages.telemetry import SimulationReply
from accelerator_autopilot.notifier.app import create_app as create_notifier
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.telemetry.agent.app import create_agent
from accelerator_autopilot.telemetry.settings import AgentSettings
from tests.conftest import NatsServer
from tests.support.apps import running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

AT_ONCE_S = 2.0
MALFORMED = [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"device": 5}', b"[" * 2000, b'{"subscription_id": ""}']


@pytest.fixture
async def services(nats_server: NatsServer, nc: Client, tmp_path: Path) -> AsyncIterator[None]:
    agent = AgentSettings(
        nats_url=nats_server.url, node="n1", simulate=1, data_dir=tmp_path / "agent", health_port=0, kernel_log=False
    )
    notifier = NotifierSettings(nats_url=nats_server.url, health_port=0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(create_agent(agent)))
        await stack.enter_async_context(running(create_notifier(notifier)))
        yield


async def test_a_malformed_request_is_answered_with_an_error(services: None, nc: Client) -> None:
    for subject, reply in ((subjects.simulate("n1"), SimulationReply), (subjects.DELIVER, DeliveryReply)):
        for body in MALFORMED:
            answer = reply.model_validate_json((await nc.request(subject, body, timeout=AT_ONCE_S)).data)
            assert not answer.ok
            assert "malformed" in str(answer) or "does not exist" in str(answer), (subject, body, answer)


async def test_nobody_answers_what_is_no_request(services: None, nc: Client) -> None:
    """Whoever publishes to a stream would take an answer for the stream's own."""
    heard: list[bytes] = []

    async def note(message: Msg) -> None:
        heard.append(message.data)

    inbox = nc.new_inbox()
    await nc.subscribe(inbox, cb=note)
    await nc.publish(subjects.alert("critical", "n1", "gpu-0"), b"{", reply=inbox)
    await eventually(lambda: heard, 10, "the stream has it")
    await asyncio.sleep(0.5)
    assert len(heard) == 1
