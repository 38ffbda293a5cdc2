"""Every route of the gateway with whatever hypothesis thinks of: nothing is a 500, and the connection lives on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.gateway import gateway_app

ADMIN = {"X-API-Key": "a"}
ROUNDS = 150
# Streams without an end, and without anything that a caller says.
ENDLESS = ("/live",)
NAMES = st.one_of(st.text(min_size=1, max_size=30), st.sampled_from(["x" * 5000, "\x00", ">", "*", "..", "ü" * 200]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 300_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
RAW = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([b"[" * 2000, b'{"kind":"\\ud800","payload":{}}', b'{"a":' + b"9" * 6000 + b"}", b"NaN", b"\xff"]),
)


def bodies(app: FastAPI, operation: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Bodies with the fields that the route knows, of values that it may not."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = str(schema.get("$ref", "")).rsplit("/", 1)[-1]
    fields = list(app.openapi()["components"]["schemas"].get(name, {}).get("properties", {}))
    known = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, VALUES))
    turn = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system"]), "content": st.text(max_size=20) | VALUES}
    )
    plain = {
        "kind": st.text(max_size=20),
        "payload": st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
        "model": st.sampled_from(["m", "m", "unknown"]),
        "messages": st.lists(turn, max_size=3),
        "prompt": st.text(max_size=20),
        "input": st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3),
    }
    job = st.fixed_dictionaries({key: value for key, value in plain.items() if key in fields})
    built = st.tuples(known, job).map(lambda parts: json.dumps({**parts[0], **parts[1]}).encode(errors="replace"))
    return st.one_of(built, RAW, VALUES.map(lambda value: json.dumps(value).encode()))


def requests(app: FastAPI) -> st.SearchStrategy[tuple[str, str, bytes, dict[str, str]]]:
    found = []
    for path, item in app.openapi()["paths"].items():
        if path.endswith(ENDLESS):
            continue
        for method, operation in item.items():
            parts = [
                NAMES.map(lambda n: quote(n, safe="")) if p.startswith("{") else st.just(p) for p in path.split("/")
            ]
            query = st.sampled_from(["", "?limit=0", "?limit=1", "?limit=x", "?kind=%00", "?kind=" + "x" * 3000])
            headers = st.sampled_from([{}, {"content-type": "text/plain"}, {"idempotency-key": "k" * 190}])
            url = st.tuples(st.tuples(*parts).map("/".join), query).map("".join)
            found.append(st.tuples(st.just(method), url, bodies(app, operation), headers))
    return st.one_of(found)


@asynccontextmanager
async def ending_jobs(client: AutopilotClient) -> AsyncIterator[None]:
    """Every job ends soon, so that whoever waits for one waits no longer."""

    async def end() -> None:
        while True:
            for view in await client.jobs.queued():
                with suppress(AutopilotError):
                    await client.jobs.cancel(view.id)
            await asyncio.sleep(0.02)

    ending = asyncio.create_task(end())
    try:
        yield
    finally:
        ending.cancel()


async def test_no_request_is_a_500(nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
    app = gateway_app(nats_server.url, tmp_path)
    drawn: list[tuple[str, str, bytes, dict[str, str]]] = []

    @settings(max_examples=ROUNDS, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests(app))
    def draw(request: tuple[str, str, bytes, dict[str, str]]) -> None:
        drawn.append(request)

    draw()
    part = PoolStatus(
        pool="p", node="n", at=utc_now(), desired=1, kinds=["chat", "generate", "embed"], workers=[], models=["m"]
    )
    async with app.router.lifespan_context(app), ending_jobs(app.state.client):
        await (await nc.jetstream().key_value("pools")).put("p.n", part.model_dump_json().encode())
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:

            async def ask(method: str, url: str, body: bytes, headers: dict[str, str]) -> None:
                given_headers = {"content-type": "application/json"} | headers | ADMIN
                answer = await http.request(method, url, content=body, headers=given_headers)
                assert answer.status_code < 500, (method, url[:100], body[:200], answer.text[:300])

            for start in range(0, len(drawn), 8):
                await asyncio.gather(*(ask(*request) for request in drawn[start : start + 8]))
            assert (await http.get("/v1/pools", headers=ADMIN)).status_code == 200
