"""Read and write NATS at the rate of telemetry, where nats-py's cost per message exceeds that of the message.

Its parser tries one pattern after another on a buffer that it shortens each time, and passes results through a queue
and a task. Here a message is found by its protocol line, and a subscription may receive its messages directly.
Everything that is not a message, or is not received directly, is left to nats-py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from accelerator_autopilot.transport.forged_status_headers import without_claims

Take = Callable[[Msg], None]
_END = b"\r\n"


class FastParser(Parser):
    """Parses what nats-py's parser does."""

    def __init__(self, client: Client) -> None:
        self.taking: dict[int, Take] = {}
        super().__init__(client)

    def reset(self) -> None:
        """Reset for a new connection."""
        super().reset()
        self._left = b""

    async def parse(self, data: bytes = b"") -> None:
        """Process received bytes; an incomplete message is kept for the next call."""
        data = self._left + data if self._left else data
        self._left = b""
        at = 0
        try:
            while (line_end := data.find(_END, at)) >= 0:
                headed = data.startswith(b"HMSG ", at)
                if not headed and not data.startswith(b"MSG ", at):
                    line, at = data[at : line_end + 2], line_end + 2
                    await super().parse(line)
                    continue
                words = data[at:line_end].split()
                begin = line_end + 2
                try:
                    sid, end = int(words[2]), begin + int(words[-1])
                    body = begin + int(words[-2]) if headed else begin
                except (IndexError, ValueError):
                    raise ProtocolError("nats: malformed MSG") from None
                if len(data) < end + 2:
                    break
                at = end + 2
                reply = words[3] if len(words) == (6 if headed else 5) else b""
                headers = data[begin:body] if headed else b""
                take = self.taking.get(sid)
                if take is None:
                    await self.nc._process_msg(sid, words[1], reply, data[body:end], headers)  # noqa: SLF001  its parser's own way
                else:
                    await self._hand_over(take, words[1], reply, data[body:end], headers)
        finally:
            self._left = data[at:]

    async def _hand_over(self, take: Take, subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        client = self.nc
        client.stats["in_msgs"] += 1
        client.stats["in_bytes"] += len(body)
        clean = without_claims(headers, reply) if headers else b""
        read = await client._process_headers(clean) if clean else None  # noqa: SLF001  its parser's own way
        take(Msg(_client=client, subject=subject.decode(), reply=reply.decode(), data=body, headers=read))


def read_fast(client: Client) -> None:
    """Make a client that has just connected use the parser of this module."""
    before = client._ps  # noqa: SLF001  it has no other name
    if isinstance(before, FastParser) or before.state != AWAITING_CONTROL_LINE:
        return
    parser = FastParser(client)
    parser._left = bytes(before.buf)  # noqa: SLF001  our own
    client._ps = parser  # noqa: SLF001


def receive_directly(client: Client, subscription: Subscription, take: Take) -> None:
    """Pass a subscription's messages directly to `take`, which must not fail, where the client uses this parser."""
    parser = getattr(client, "_ps", None)
    if isinstance(parser, FastParser):
        parser.taking[subscription._id] = take  # noqa: SLF001


def restore_callback(client: Client, subscription: Subscription) -> None:
    """Undo `receive_directly`."""
    parser = getattr(client, "_ps", None)
    if isinstance(parser, FastParser):
        parser.taking.pop(subscription._id, None)  # noqa: SLF001


async def answer_all(client: Client, replies: Iterable[str], body: bytes) -> None:
    """Publish the same payload under many subjects in one write. Raises what `publish` of nats-py raises."""
    subjects = list(replies)
    if not subjects:
        return
    # The last one uses the normal path, which checks the connection and flushes.
    last = subjects.pop()
    if subjects and client.is_connected:
        size = len(body)
        lines = b"".join(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), size, body) for subject in subjects)
        client.stats["out_msgs"] += len(subjects)
        client.stats["out_bytes"] += size * len(subjects)
        await client._send_command(lines)  # noqa: SLF001  it has no other name
    else:
        for subject in subjects:
            await client.publish(subject, body)
    await client.publish(last, body)
