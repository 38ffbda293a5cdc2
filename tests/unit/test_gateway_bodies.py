"""Bodies: limits, speed, budget, and what is no JSON; keys; streams; refused keys."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from accelerator_autopilot.contracts.errors import BusyError, SettingsError
from accelerator_autopilot.gateway.application.event_fanout import EventFanout
from accelerator_autopilot.gateway.http import request_bodies
from accelerator_autopilot.gateway.http.path_parameters import fits
from accelerator_autopilot.gateway.http.request_bodies import (
    BodyTooLargeError,
    MemoryBudget,
    Share,
    count_values,
    parse,
    read_body,
    weigh,
)
from accelerator_autopilot.gateway.security.key_file import KeyRing, Role
from accelerator_autopilot.gateway.security.rejected_key_audit import RejectedKeyAudit
from accelerator_autopilot.runtime.api_keys import digest
from tests.support.waiting import eventually


class Sender:
    def __init__(self, *chunks: bytes, stalls: bool = False) -> None:
        self.left, self.stalls, self.read = list(chunks), stalls, 0

    async def __call__(self) -> dict[str, Any]:
        if not self.left and self.stalls:
            await asyncio.sleep(3600)
        chunk = self.left.pop(0)
        self.read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(self.left) or self.stalls}


def share(limit: int = 2**30) -> Share:
    return Share(MemoryBudget(limit))


class TestReading:
    async def test_a_body_is_counted_as_it_comes(self) -> None:
        sender = Sender(*[b"x" * 100] * 100)
        with pytest.raises(BodyTooLargeError):
            await read_body(sender, None, 250, share())
        assert sender.read == 300

    async def test_a_declared_length_is_refused_before_anything_is_read(self) -> None:
        sender = Sender(b"x")
        with pytest.raises(BodyTooLargeError):
            await read_body(sender, 251, 250, share())
        assert sender.read == 0

    async def test_a_body_that_stands_still_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(request_bodies, "FIRST_BYTES_S", 0.1)
        with pytest.raises(HTTPException) as refused:
            await read_body(Sender(b"x", stalls=True), 100, 250, share())
        assert refused.value.status_code == 408

    async def test_all_bodies_together_have_a_budget_and_give_it_back(self) -> None:
        budget = MemoryBudget(1000)
        first = Share(budget)
        assert await read_body(Sender(b"x" * 800), None, 2000, first) == b"x" * 800
        with pytest.raises(BusyError):
            await read_body(Sender(b"x" * 300), None, 2000, Share(budget))
        first.give_back()
        assert budget.taken == 0

    async def test_many_small_values_weigh_more_than_their_bytes(self) -> None:
        with pytest.raises(BodyTooLargeError):
            await weigh(b"[" + b"{}," * 1_100_000 + b"{}]", share())
        with pytest.raises(BusyError):
            await weigh(b"[" + b"{}," * 1000 + b"{}]", share(50_000))
        await weigh(json.dumps({"text": "a, b [c] {d} \\" * 200_000}).encode(), share())


class TestParsing:
    @pytest.mark.parametrize(
        "body",
        [
            b'{"a": "\\ud800"}',
            b'{"a": "\xed\xa0\x80"}',
            b"\xff",
            b'{"a": NaN}',
            b'{"a": 1e999}',
            b'{"a": ' + b"9" * 5000 + b"}",
            b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
            b"[" * 100_000,
        ],
    )
    def test_what_would_fail_later_is_refused_here(self, body: bytes) -> None:
        with pytest.raises(HTTPException) as refused:
            parse(body)
        assert refused.value.status_code == 422

    def test_what_is_fine_is_taken(self) -> None:
        deep: Any = 1
        for _ in range(90):
            deep = [deep]
        for value in ({"a": deep}, {"a": "\U0001f600"}, {"e": 1e300}, []):
            assert parse(json.dumps(value).encode()) == value

    def test_counting_is_quick_and_knows_strings(self) -> None:
        assert count_values(b'["a,b,c", {"d": "[,"}]', 3) == 4
        began = time.thread_time()
        count_values(b"{}," * 20_000_000, 1000)
        assert time.thread_time() - began < 5

    @pytest.mark.parametrize("name", ["x" * 201, "ä" * 101, "\x00", "a\nb"])
    def test_names_are_bounded_in_bytes(self, name: str) -> None:
        with pytest.raises(ValueError):
            fits(name)


class TestKeys:
    def test_keys_are_read_again_and_a_half_written_file_keeps_those_of_before(self, tmp_path: Path) -> None:
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({digest("one"): "viewer"}))
        ring = KeyRing(file)
        found = ring.find("one")
        assert found is not None
        assert (found.user, found.role) == (f"key-{digest('one')[:8]}", Role.viewer)
        file.write_text('{"abc')
        ring.refresh()
        assert ring.problem
        assert ring.find("one")
        file.write_text(json.dumps({digest("two"): {"role": "operator", "user": "olga"}}))
        ring.refresh()
        assert not ring.problem
        assert ring.find("one") is None
        assert ring.find("two").user == "olga"  # type: ignore[union-attr]
        file.unlink()
        ring.refresh()
        assert ring.problem
        assert ring.find("two")

    @pytest.mark.parametrize("entry", [{"role": "admin", "user": "scheduler"}, {"role": "admin", "user": ""}, "root"])
    def test_a_key_in_the_name_of_a_service_is_refused(self, tmp_path: Path, entry: object) -> None:
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({digest("one"): entry}))
        with pytest.raises(SettingsError):
            KeyRing(file)
        file.write_text(json.dumps({"ümlaut": "admin"}))
        with pytest.raises(SettingsError):
            KeyRing(file)

    def test_refused_keys_are_one_record_now_and_then(self) -> None:
        told: list[Any] = []
        refusals = RejectedKeyAudit(told.append, CollectorRegistry())
        for number in range(5000):
            refusals.count(f"10.0.{number // 256}.{number % 256}", 401)
        refusals.write()
        refusals.write()
        assert [t.action for t in told] == ["key.refused"]
        assert told[0].detail["count"] == "5000"
        assert len(told[0].detail) <= 11


async def test_streams_share_one_reader_and_a_slow_one_misses_the_oldest() -> None:
    worded: list[int] = []

    async def source() -> AsyncGenerator[int, None]:
        for number in range(100):
            yield number
            await asyncio.sleep(0)
        await asyncio.sleep(3600)

    failures: list[Exception] = []

    def words(number: int) -> str:
        worded.append(number)
        if number == 95:
            raise ValueError("no words for it")
        return str(number)

    fanout = EventFanout(source, words, depth=10, failed=failures.append)
    listeners = [fanout.listen() for _ in range(5)]
    firsts = [asyncio.ensure_future(anext(listener)) for listener in listeners]
    await asyncio.sleep(0)
    running = asyncio.create_task(fanout.run())
    assert await asyncio.gather(*firsts) == ["0"] * 5
    await eventually(lambda: len(worded) == 100)
    assert [await anext(listeners[0]) for _ in range(6)] == ["89", "90", "91", "92", "93", "94"]
    assert await anext(listeners[0]) == "96", "one without words costs its readers no other"
    assert [type(error) for error in failures] == [ValueError]
    assert worded == list(range(100))
    running.cancel()
