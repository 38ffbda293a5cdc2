"""Large objects: whole or not at all, in time that grows as their size does."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import PubAck

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import NotFoundError, UnavailableError
from accelerator_autopilot.transport.object_store import CHUNK_BYTES, read_object, write_object
from tests.conftest import NatsServer
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

ECHO = {"AUTOPILOT_POOL_KINDS": '["echo"]'}


class TestObjects:
    async def test_an_object_comes_back_as_it_was(self, client: AutopilotClient) -> None:
        for size in (0, 1, 128 * 1024, 3 * 128 * 1024 + 5):
            content = bytes(i % 251 for i in range(size))
            await write_object(client.js, "payloads", "x", content)
            assert await read_object(client.js, "payloads", "x") == content

    async def test_one_that_is_gone_is_not_one_that_is_half_there(self, client: AutopilotClient, nc: Client) -> None:
        with pytest.raises(NotFoundError, match="payloads/x does not exist"):
            await read_object(client.js, "payloads", "x")
        await write_object(client.js, "payloads", "x", b"y" * 500_000)
        info = await (await client.js.object_store("payloads")).get_info("x")
        await client.js.delete_msg("OBJ_payloads", 2)
        with pytest.raises(UnavailableError, match=f"payloads/x has {(info.chunks or 0) - 1} of its {info.chunks}"):
            await read_object(client.js, "payloads", "x")

    @pytest.mark.parametrize("ends", ["refused", "cancelled"])
    async def test_one_that_is_half_written_leaves_the_one_before_and_nothing_else(
        self, client: AutopilotClient, monkeypatch: pytest.MonkeyPatch, ends: str
    ) -> None:
        await write_object(client.js, "payloads", "x", b"before" * 100_000)
        held = (await client.js.stream_info("OBJ_payloads")).state.messages
        publish, count = client.js.publish, 0

        async def fails(subject: str, *arguments: Any, **named: Any) -> PubAck:
            nonlocal count
            count += ".C." in subject
            if count == 20 and ends == "refused":
                raise nats.errors.TimeoutError
            if count >= 20:
                await asyncio.Event().wait()
            return await publish(subject, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(client.js, "publish", fails)
            writing = asyncio.create_task(write_object(client.js, "payloads", "x", b"y" * 10_000_000))
            await eventually(lambda: count >= 20)
            if ends == "cancelled":
                writing.cancel()
            with pytest.raises((UnavailableError, asyncio.CancelledError)):
                await writing
        assert await read_object(client.js, "payloads", "x") == b"before" * 100_000
        assert (await client.js.stream_info("OBJ_payloads")).state.messages == held

    async def test_what_takes_the_place_of_another_leaves_nothing_of_it(self, client: AutopilotClient) -> None:
        for size in (3_000_000, 500_000, 500_001):
            await write_object(client.js, "payloads", "x", b"z" * size)
        info = await client.js.stream_info("OBJ_payloads")
        assert info.state.messages == 1 + -(-500_001 // CHUNK_BYTES)
        # Other clients read it as one of their own.
        theirs = await (await client.js.object_store("payloads")).get("x")
        assert theirs.data == b"z" * 500_001

    async def test_reading_and_writing_take_time_as_the_size_does(self, client: AutopilotClient) -> None:
        async def cpu_s(size: int) -> float:
            content, began = b"x" * size, time.process_time()
            await write_object(client.js, "payloads", "x", content)
            assert await read_object(client.js, "payloads", "x") == content
            return time.process_time() - began

        small = min([await cpu_s(4 * 2**20) for _ in range(3)])
        large = min([await cpu_s(32 * 2**20) for _ in range(2)])
        # Eight times as much; nats-py's own reader needs more than twenty times as long.
        assert large < 14 * small

    async def test_a_job_whose_payload_is_half_there_is_tried_again_and_says_so(
        self, client: AutopilotClient, nats_server: NatsServer
    ) -> None:
        handle = await client.jobs.submit("echo", {"text": "x" * 500_000}, max_attempts=2)
        await client.js.delete_msg("OBJ_payloads", 1)
        async with worker_process(nats_server.url, **ECHO):
            other = await client.jobs.submit("echo", {"text": "others go on"})
            assert (await other.wait(20)).status == "succeeded"
            result = await handle.wait(20)
        assert [e.attempt for e in result.errors] == [1, 2]
        assert "parts" in result.errors[-1].message
