"""Jobs over bare NATS: `python bare_jobs.py URL run KIND PAYLOAD ID`, `python bare_jobs.py URL cancel ID`.

A payload of - is read from standard input. Needs nats-py alone. docs/reference/nats-protocol.md describes the protocol.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
import time
from typing import Any

import nats
from nats.aio.client import Client

INLINE_BYTES = 256 * 1024
DAY_S = 86_400


def token(name: str) -> str:
    """A name as one part of a subject: every byte but letters, digits, - and _ is =XX."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda m: "".join(f"={b:02X}" for b in m[0].encode()), name)


def of_job(job_id: str) -> str:
    """An id as parts of a subject: what stands before its first point, if any, is its batch."""
    batch, point, rest = job_id.partition(".")
    return f"{token(batch)}.{token(rest)}" if point and batch and rest else token(job_id)


async def find_result(nc: Client, job_id: str) -> dict[str, Any] | None:
    """The result, if there is one already."""
    try:
        found = await nc.request(f"$JS.API.DIRECT.GET.RESULTS.results.{of_job(job_id)}", b"", timeout=5)
    except nats.errors.TimeoutError:
        # No answer: whoever waits asks again.
        return None
    if (found.headers or {}).get("Status") == "404":
        return None
    result: dict[str, Any] = json.loads(found.data)
    if result.get("output_ref"):
        store = await nc.jetstream().object_store("payloads")
        result["output"] = json.loads((await store.get(result["output_ref"])).data or b"{}")["output"]
    return result


async def run(nc: Client, kind: str, payload: dict[str, Any], job_id: str, wait_s: float = 60) -> dict[str, Any]:
    """Submit a job, which is stored when this has its confirmation, and wait for its result."""
    body: dict[str, Any] = {"payload": payload}
    if len(json.dumps(payload)) > INLINE_BYTES:
        store = await nc.jetstream().object_store("payloads")
        # The name says when it may be deleted.
        name = f"{int(time.time()) + DAY_S}-{hashlib.sha256(job_id.encode()).hexdigest()}"
        await store.put(name, json.dumps(payload).encode())
        body = {"payload_ref": name}
    # Listen first and look second, so that a result in between is not missed.
    results = await nc.subscribe(f"results.{of_job(job_id)}")
    ack = await nc.request(
        f"jobs.{token(kind)}.normal.{of_job(job_id)}",
        json.dumps(body).encode(),
        timeout=10,
        headers={"Nats-Msg-Id": token(job_id)},
    )
    stored = json.loads(ack.data)
    if "error" in stored:
        raise RuntimeError(stored["error"]["description"])
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        result = await find_result(nc, job_id)
        if result is not None:
            return result | {"duplicate": stored.get("duplicate", False)}
        try:
            await results.next_msg(timeout=5)
        except nats.errors.TimeoutError:
            continue
    raise TimeoutError(job_id)


async def main() -> None:
    """One command."""
    url, command, *rest = sys.argv[1:]
    nc = await nats.connect(url)
    if command == "cancel":
        await nc.jetstream().publish(f"$KV.jobs.{token(rest[0])}", b'{"cancelled": true}')
    else:
        kind, payload, job_id = rest
        print(json.dumps(await run(nc, kind, json.loads(sys.stdin.read() if payload == "-" else payload), job_id)))
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
