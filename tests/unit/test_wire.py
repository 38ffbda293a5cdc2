"""Messages read and written at the rate of telemetry mean what they mean to nats-py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from accelerator_autopilot.transport import forged_status_headers
from accelerator_autopilot.transport.wire_protocol import FastParser, answer_all, read_fast

forged_status_headers.install()

PLAIN = b"MSG a.b 1 5\r\nhello\r\n"
REPLIED = b"MSG a.b 2 $JS.ACK.S.d.1.7.1.5.0 0\r\n\r\n"
HEADED = b"HMSG a.b 1 inbox 24 28\r\nNATS/1.0\r\nKey: value\r\n\r\nbody\r\n"
STATUS = b"HMSG inbox 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"
TRICKY = b"MSG a.b 1 22\r\nMSG a.b 1 5\r\nhello\r\nPI\r\n"
OTHERS = (b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b'INFO {"server_id": "x"}\r\n', b"-ERR 'slow consumer'\r\n")


class Heard(Client):
    """A client that keeps what its parser finds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.heard: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard.append((sid, bytes(subject), bytes(reply), bytes(data), bytes(headers or b"")))

    async def _process_ping(self) -> None:
        self.heard.append("ping")

    async def _process_pong(self) -> None:
        self.heard.append("pong")

    async def _process_info(self, info: Any, initial_connection: bool = False) -> None:
        self.heard.append(info)

    async def _process_err(self, err_msg: str) -> None:
        self.heard.append(err_msg)


async def heard(make: type[Parser], pieces: list[bytes]) -> list[Any]:
    client = Heard()
    parser = make(client)
    for piece in pieces:
        await parser.parse(piece)
    return client.heard


@given(st.lists(st.sampled_from((PLAIN, REPLIED, HEADED, STATUS, TRICKY, *OTHERS)), max_size=8), st.data())
def test_it_finds_what_the_parser_of_nats_finds_however_the_bytes_come(sent: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    expected = asyncio.run(heard(Parser, [whole]))
    assert asyncio.run(heard(FastParser, pieces)) == expected
    assert len(expected) == len([one for one in sent if one != b"+OK\r\n"])


@pytest.mark.parametrize("line", [b"MSG a\r\n", b"MSG a b c\r\n", b"HMSG a 1 x 5\r\nhello\r\n", b"WHAT\r\n"])
async def test_what_is_no_protocol_is_an_error_after_which_the_client_connects_anew(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        await heard(FastParser, [line])


async def test_a_message_that_is_taken_at_once_is_the_same_message() -> None:
    client = Heard()
    read_fast(client)
    taken: list[Msg] = []
    parser = client._ps
    assert isinstance(parser, FastParser)
    parser.taking[1] = taken.append
    await parser.parse(PLAIN + HEADED + REPLIED + STATUS)
    plain, headed, status = taken
    assert (plain.subject, plain.reply, plain.data, plain.headers) == ("a.b", "", b"hello", None)
    assert (headed.reply, headed.data, headed.headers) == ("inbox", b"body", {"Key": "value"})
    assert status.headers == {"Status": "404", "Description": "No Messages"}
    assert [message[0] for message in client.heard] == [2], "the other subscription's goes the usual way"
    assert client.stats["in_msgs"] == 3


class Connected:
    """A client that is connected, and what was written."""

    def __init__(self) -> None:
        self.is_connected, self.stats = True, {"out_msgs": 0, "out_bytes": 0}
        self.written = b""

    async def _send_command(self, lines: bytes) -> None:
        self.written += lines

    async def publish(self, subject: str, body: bytes) -> None:
        self.written += b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body)


@pytest.mark.parametrize("connected", [True, False])
async def test_many_answers_are_written_as_each_would_be(connected: bool) -> None:
    client = Connected()
    client.is_connected = connected
    await answer_all(client, ["a", "b", "c"], b"+ACK")  # type: ignore[arg-type]
    await answer_all(client, [], b"+ACK")  # type: ignore[arg-type]
    assert client.written == b"PUB a 4\r\n+ACK\r\nPUB b 4\r\n+ACK\r\nPUB c 4\r\n+ACK\r\n"
