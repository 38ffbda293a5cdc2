"""Publishing rides out a stream that elects a leader, and nothing else."""

from __future__ import annotations

from typing import Any

import nats.errors
import pytest
from nats.js.errors import NoStreamResponseError

from accelerator_autopilot.transport.publish_retries import publish_patiently


class Electing:
    def __init__(self, refusals: int, error: Exception) -> None:
        self.refusals, self.error, self.headers = refusals, error, []  # type: ignore[var-annotated]

    async def publish(self, _: str, __: bytes, *, headers: dict[str, str], stream: str | None) -> str:
        self.headers.append(dict(headers))
        headers["Nats-Expected-Stream"] = "changed by the library"
        if len(self.headers) <= self.refusals:
            raise self.error
        return f"stored in {stream}"


async def test_a_message_waits_for_the_leader_under_its_own_id() -> None:
    stream: Any = Electing(3, NoStreamResponseError())
    assert await publish_patiently(stream, "s", b"", {"Nats-Msg-Id": "1"}, stream="JOBS") == "stored in JOBS"
    assert stream.headers == [{"Nats-Msg-Id": "1"}] * 4


@pytest.mark.parametrize(("error", "tries"), [(NoStreamResponseError(), 2), (nats.errors.TimeoutError(), 1)])
async def test_patience_ends_and_is_for_elections_only(error: Exception, tries: int) -> None:
    stream: Any = Electing(100, error)
    with pytest.raises(type(error)):
        await publish_patiently(stream, "s", b"", {"Nats-Msg-Id": "1"}, patience_s=0.1)
    assert len(stream.headers) == tries
