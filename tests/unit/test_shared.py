"""Subjects, frames, health, settings and the retry schedule."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.frames import decode, encode
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.metric_catalogue import BY_NAME, METRICS, clock_event_names
from accelerator_autopilot.runtime.consumers import backoff_s
from accelerator_autopilot.runtime.health import HealthServer, HealthState
from accelerator_autopilot.runtime.observability import bounded_subject
from accelerator_autopilot.runtime.settings import ServiceSettings, load
from accelerator_autopilot.transport.direct_reads import subjects_of
from tests.support.builders import at, frame


@given(st.text(min_size=1, max_size=60))
def test_tokens_survive_the_round_trip_and_are_legal(text: str) -> None:
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return
    escaped = subjects.token(text)
    assert subjects.untoken(escaped) == text
    assert all(c.isascii() and (c.isalnum() or c in "_-=") for c in escaped)


def test_different_names_never_share_a_subject() -> None:
    names = ["a.b", "a=2Eb", "a b", "a_b", "a-b", "A.b"]
    assert len({subjects.frames(n) for n in names}) == len(names)


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        subjects.token("")


@given(
    ticks=st.integers(1, 4), devices=st.integers(1, 4), metrics=st.integers(1, 5), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_frames_survive_the_round_trip(ticks: int, devices: int, metrics: int, seed: int) -> None:
    names = tuple(f"d{i}" for i in range(devices))
    columns = tuple(m.name for m in METRICS[:metrics])
    original = frame(devices=names, metrics=columns, ticks=ticks)
    values = np.random.default_rng(seed).normal(size=original.values.shape).astype(np.float32)
    values[0, 0, 0] = np.nan
    original.values[:] = values
    back = decode(encode(original))
    assert (back.node, back.devices, back.metrics, back.start_us) == ("n1", names, columns, original.start_us)
    np.testing.assert_array_equal(back.values, values)
    assert columns[0] not in back.latest()["d0"] or ticks > 1


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        decode(data)


@given(position=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_mutated_frame_decodes_or_is_refused(position: int, byte: int) -> None:
    data = bytearray(encode(frame(devices=("a", "b"), metrics=("power_w", "temp_c"))))
    data[position % len(data)] = byte
    with suppress(InvalidInputError):
        decoded = decode(bytes(data))
        assert decoded.values.shape == (decoded.ticks, len(decoded.devices), len(decoded.metrics))


def test_tick_times_follow_the_period() -> None:
    assert frame(ticks=3).tick_time(2) == at(2)


def test_readiness_tells_what_is_wrong_and_liveness_what_is_stuck() -> None:
    state = HealthState("test")
    server = HealthServer(state, CollectorRegistry(), "127.0.0.1", 0)
    server.start()

    def ask(path: str) -> tuple[int, dict[str, object]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=2) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    try:
        assert ask("/readyz")[0] == 503
        state.report("started", ok=True)
        assert ask("/readyz") == (200, {"ready": True, "service": "test", "problems": {}})
        state.report("database", ok=False, reason="gone")
        assert ask("/readyz")[1]["problems"] == {"database": "gone"}
        state.report("database", ok=True, max_age_s=-1.0)
        assert "not confirmed" in str(ask("/readyz")[1])
        state._tick -= 100
        assert ask("/livez")[0] == 503
    finally:
        server.stop()


def test_a_bad_setting_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOPILOT_LOG_LEVEL", "LOUD")
    with pytest.raises(SystemExit) as ended:
        load(ServiceSettings)
    assert ended.value.code == 2
    assert "AUTOPILOT_LOG_LEVEL='LOUD'" in capsys.readouterr().err


def test_every_setting_is_described() -> None:
    assert all(f.description for f in ServiceSettings.model_fields.values())


def test_backoff_grows_and_ends() -> None:
    delays = [backoff_s(n) for n in range(12)]
    assert delays == sorted(delays)
    assert delays[-1] == 30.0


def test_metric_labels_are_bounded() -> None:
    labels = {bounded_subject(subjects.job("echo", "high", derived_id(str(i)))) for i in range(100)}
    assert labels == {"jobs.echo"}


def test_metric_names_carry_no_duplicates_and_clock_reasons_decode() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert clock_event_names(0x44) == ["sw_power_cap", "hw_thermal"]


class PagedStream:
    """A stream with more subjects than the server tells at once."""

    _prefix, _timeout = "$JS.API", 5.0

    def __init__(self, count: int, page: int) -> None:
        self.names, self.page, self.asked = [f"results.b.{i}" for i in range(count)], page, 0

    async def _api_request(self, subject: str, request: bytes, timeout: float) -> dict[str, Any]:
        assert (subject, timeout) == ("$JS.API.STREAM.INFO.RESULTS", 5.0)
        self.asked += 1
        offset = json.loads(request)["offset"]
        told = dict.fromkeys(self.names[offset : offset + self.page], 1)
        return {"total": len(self.names), "offset": offset, "limit": self.page, "state": {"subjects": told or None}}


@pytest.mark.parametrize(("count", "asked"), [(0, 1), (7, 1), (10, 1), (11, 2), (35, 4)])
async def test_more_subjects_than_the_server_tells_at_once_are_all_found(count: int, asked: int) -> None:
    stream = PagedStream(count, 10)
    assert len(await subjects_of(stream, "RESULTS", "results.b.*")) == count  # type: ignore[arg-type]
    assert stream.asked == asked
