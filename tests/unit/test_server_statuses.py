"""A publisher's headers are not taken for the server's word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from accelerator_autopilot.transport.forged_status_headers import without_claims

ACKNOWLEDGED = b"$JS.ACK.EVENTS.anomaly-events.1.7.7.1700000000000000000.0"


@pytest.mark.parametrize(
    ("headers", "reply", "left"),
    [
        (b"NATS/1.0 404 No Messages\r\n\r\n", b"", {"Status": "404", "Description": "No Messages"}),
        (b"NATS/1.0 503\r\n\r\n", b"", {"Status": "503"}),
        (
            b"NATS/1.0 409 Consumer Deleted\r\nNats-Pending-Messages: 3\r\n\r\n",
            b"",
            {"Status": "409", "Description": "Consumer Deleted", "Nats-Pending-Messages": "3"},
        ),
        (b"NATS/1.0\r\nNats-Msg-Id: e1\r\nStatus: 409\r\nx: y\r\n\r\n", ACKNOWLEDGED, {"Nats-Msg-Id": "e1", "x": "y"}),
        (b"NATS/1.0\r\nstatus :\t503\r\nx: y\r\n\r\n", b"", {"x": "y"}),
        (b"NATS/1.0 409 Consumer Deleted\r\nx: y\r\n\r\n", ACKNOWLEDGED, {"x": "y"}),
        (b"NATS/1.0 \xff\xff\xff\r\nx: y\r\n\r\n", b"", {"x": "y"}),
        (b"x", b"", None),
        (b"\r\n", ACKNOWLEDGED, None),
    ],
)
async def test_only_the_server_has_a_status(headers: bytes, reply: bytes, left: dict[str, str] | None) -> None:
    read = await Client()._process_headers(without_claims(headers, reply))
    assert {str(getattr(k, "value", k)): v.strip() for k, v in (read or {}).items()} == (left or {})


@given(st.binary(max_size=80), st.sampled_from([b"", ACKNOWLEDGED]), st.booleans())
async def test_no_headers_end_the_connection(rest: bytes, reply: bytes, known: bool) -> None:
    headers = without_claims((b"NATS/1.0" if known else b"") + rest, reply)
    read = await Client()._process_headers(headers)
    assert not (reply and read and "Status" in read)
