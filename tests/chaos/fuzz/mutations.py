"""Messages that no client would send: broken, cut off, of wrong types, extreme, or valid and unlikely. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack

FACE = "\N{GRINNING FACE}"
DEEP = 3000
NEST: Any = []
for _ in range(60):
    NEST = [NEST]
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 0.1, 1e308, -1e308, 1e-308,
    float("nan"), float("inf"), float("-inf"), "", " ", "x" * 3000, FACE * 50, FACE * 200, "\0", "a\0b", "\ud800", ">",
    "*", "a.b", "../../etc/passwd", "=ZZ", "=00", "[/red]", "\x1b[2J", "{}", "$node", "http://[",
    "0001-01-01T00:00:00Z",
    "8999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "2026-13-45T99:99:99Z", [], {}, [None], [[]], {"": None}, NEST,
    ["x"] * 1000, {f"k{i}": i for i in range(300)},
)  # fmt: skip
"""Values that a field of any type may hold in JSON."""
TIMES = ("at", "expires_at", "submitted_at", "starts_at", "ends_at", "opened_at", "created_at", "started_at")


def nested_json(chance: random.Random) -> bytes:
    """Deeper than any parser recurses."""
    opening, closing = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return opening * DEEP + b"1" + closing * DEEP


def fresh(body: dict[str, Any], now: datetime) -> dict[str, Any]:
    """A golden message as if it were sent now: an old one would be refused for its age alone."""
    times = {key: (now + timedelta(seconds=60 * key.startswith(("expires", "ends")))) for key in TIMES if body.get(key)}
    return body | {key: at.isoformat() for key, at in times.items()}


def paths(body: Any, *, deepest: int = 6) -> list[tuple[Any, ...]]:
    """Where a value can be replaced: the keys and indices that lead there."""
    if deepest == 0 or not isinstance(body, dict | list):
        return []
    items = body.items() if isinstance(body, dict) else enumerate(body)
    return [path for key, value in items for path in [(key,), *((key, *p) for p in paths(value, deepest=deepest - 1))]]


def with_value(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `body` with another value at a path."""
    if not path:
        return value
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


def changed(body: dict[str, Any], chance: random.Random, fixed: tuple[str, ...] = ()) -> dict[str, Any]:
    """One to three values replaced, left out or added; those that lead to the right receiver stay as they are."""
    for _ in range(chance.randint(1, 3)):
        open_paths = [path for path in paths(body) if path[0] not in fixed]
        if not open_paths:
            break
        path = chance.choice(open_paths)
        if len(path) == 1 and chance.random() < 0.1:
            body = {key: value for key, value in body.items() if key != path[0]}
        else:
            body = with_value(body, path, chance.choice(ODD))
    return body if chance.random() < 0.9 else body | {"of_the_future": chance.choice(ODD)}


def flipped(data: bytes, chance: random.Random) -> bytes:
    """Some bits turned over."""
    out = bytearray(data or b"\0")
    for _ in range(chance.randint(1, 8)):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def json_message(golden: dict[str, Any], chance: random.Random, now: datetime | None = None) -> bytes:
    """A message of JSON that is mostly nearly right."""
    body = fresh(golden, now or datetime.now(UTC))
    return _spoilt(
        chance, lambda: changed(body, chance), lambda b: json.dumps(b).encode("utf-8", "surrogatepass"), body
    )


def frame_message(golden: bytes, node: str, chance: random.Random, now: datetime | None = None) -> bytes:
    """The same for frames of telemetry."""
    start_us = int((now or datetime.now(UTC)).timestamp() * 1e6)
    body: dict[str, Any] = msgpack.unpackb(golden) | {"node": node, "start_us": start_us}

    def other() -> dict[str, Any]:
        if chance.random() < 0.3:
            cells = len(body["values"]) // 4
            odd = (
                b"\0\0\xc0\x7f",
                b"\0\0\x80\x7f",
                b"\xff\xff\x7f\x7f",
                b"\xff\xff\x7f\xff",
                b"\1\0\0\0",
                b"\0\0\x80\xbf",
            )
            return body | {"values": b"".join(chance.choice(odd) for _ in range(cells))}
        return changed(body, chance, fixed=("node",) if chance.random() < 0.7 else ())

    return _spoilt(chance, other, _packed, body)


def _packed(body: Any) -> bytes:
    try:
        return bytes(msgpack.packb(body, unicode_errors="surrogatepass"))
    except (OverflowError, ValueError):
        # MessagePack has no number over 64 bits, and packs no deep nests.
        return b"\x91" * DEEP


def _spoilt(
    chance: random.Random, change: Callable[[], Any], pack: Callable[[Any], bytes], body: dict[str, Any]
) -> bytes:
    way = chance.random()
    whole = pack(body)
    if way < 0.6:
        return pack(change())
    if way < 0.65:
        return whole
    if way < 0.75:
        return whole[: chance.randrange(len(whole))]
    if way < 0.85:
        return flipped(whole, chance)
    if way < 0.9:
        return chance.randbytes(chance.randrange(400))
    return chance.choice(
        [b"", b"null", b"1", b'"x"', b"[]", b"[1]", b"{}", b"\x80", b"\xc1", b"NaN", b"9" * 6000, b"\xff\xfe{\0}\0",
         nested_json(chance), b"\x91" * DEEP, b'{"a":1,"a":2}', json.dumps(chance.choice(ODD)).encode()]
    )  # fmt: skip


def headers(chance: random.Random) -> dict[str, str] | None:
    """Headers that belong to others: ids of odd forms, other types, whole protocols."""
    if chance.random() < 0.6:
        return None
    names: dict[str, tuple[str, ...]] = {
        "Nats-Msg-Id": ("", " ", "with space", FACE * 200, "x" * 3000, "a\r\nInjected: b", "\0", "results.j1"),
        "content-type": ("text/plain", "application/json", "application/octet-stream", "x/" + "y" * 500, "\xff", ""),
        "correlation_id": ("", "x" * 5000, "a b"),
        "reply_to": ("jobs.echo.normal", "a..b", ">", ""),
        "traceparent": ("00-0-0-0", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff", "x" * 1000),
        "tracestate": ("=", ",,,,", "x" * 1000),
        "baggage": ("a=" + "x" * 9000, "%zz"),
        "Status": ("100", "404", "408", "409", "503", "x"),
        "Description": ("Consumer Deleted", "Idle Heartbeat"),
        "KV-Operation": ("DEL", "PURGE", "NONSENSE"),
        "Nats-Pending-Messages": ("x", "-1"),
        "Nats-Schedule-Next": ("@at 2026-01-01T00:00:00Z", "purge", "x"),
        "Nats-Stream-Source": ("x",),
    }
    chosen = chance.sample(list(names), chance.randint(1, 3))
    return {name: chance.choice(names[name]) for name in chosen}
