"""The gateway under what is not meant well: no keys, hostile ids and bodies, half senders, a broker that fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client
from nats.js.errors import KeyNotFoundError

from accelerator_autopilot import connect
from accelerator_autopilot.client import AutopilotClient, alerts
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import BusyError, ConflictError, UnavailableError
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.gateway.adapters import nats_connection
from accelerator_autopilot.gateway.application.event_fanout import StreamLimit
from accelerator_autopilot.gateway.http import server_protocol
from accelerator_autopilot.runtime.api_keys import digest
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.gateway import KEYS, gateway_app, gateway_http, gateway_on_a_port
from tests.support.waiting import eventually

ADMIN = {"X-API-Key": "a"}
HOSTILE = [
    "x" * 5000,
    "ä" * 150,
    "%00",
    ">",
    "*",
    " ",
    "a.b",
    "..",
    "%F0%9F%98%80",
    "'",
    "a%0ab",
    "$KV",
    "=",
    "%ED%A0%80",
]


async def test_without_a_key_nothing_of_a_body_is_read(nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
    sent = 0
    app = gateway_app(nats_server.url, tmp_path)

    async def receive() -> dict[str, object]:
        nonlocal sent
        sent += 1_000_000
        return {"type": "http.request", "body": b" " * 1_000_000, "more_body": True}

    async def ask(key: str) -> int:
        told: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            told.append(message)

        headers = [(b"x-api-key", key.encode()), (b"transfer-encoding", b"chunked")]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/jobs", "raw_path": b"/v1/jobs", "query_string": b"",
            "headers": headers, "client": ("10.0.0.1", 1), "http_version": "1.1", "root_path": "", "scheme": "http",
            "server": ("test", 80),
        }  # fmt: skip
        await app(scope, receive, send)
        return int(str(told[0]["status"]))

    assert await ask("wrong") == 401
    assert await ask("v") == 403
    # Only what was on its way already is taken, so that the answer arrives.
    assert sent <= 6_000_000
    assert await ask("o") == 413
    assert sent < 80_000_000


async def test_bodies_are_small_where_no_job_is_submitted(nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
    async with gateway_http(nats_server.url, tmp_path) as http:
        two_mib = json.dumps({"note": "x" * 2**21}).encode()
        refused = await http.post("/v1/alerts/a/acknowledge", content=two_mib, headers=ADMIN)
        assert refused.status_code == 413
        job = {"kind": "echo", "payload": {"text": "x" * 2**21}}
        assert (await http.post("/v1/jobs", json=job, headers=ADMIN)).status_code == 202
        deep = b'{"kind": "echo", "payload": {"a": ' + b"[" * 700 + b"]" * 700 + b"}}"
        for body in (deep, b'{"kind": "echo", "payload": {"a": "\\ud800"}}', b'{"kind": "a\\u0000b", "payload": {}}'):
            answer = await http.post("/v1/jobs", content=body, headers=ADMIN | {"content-type": "application/json"})
            assert answer.status_code == 422, body[:60]
            assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_has_security_headers_and_the_reference_loads_nothing(
    nats_server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    async with gateway_http(nats_server.url, tmp_path) as http:
        page = await http.get("/api/docs")
        assert page.status_code == 200
        assert "/v1/jobs" in page.text
        assert "<script" not in page.text
        assert (await http.get("/openapi.json")).status_code == 401
        assert (await http.get("/openapi.json", headers={"X-API-Key": "v"})).status_code == 200
        for answer in (page, await http.get("/nowhere"), await http.get("/v1/devices", headers=ADMIN)):
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_no_hostile_name_is_a_500_or_ends_the_connection(
    nats_server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    app = gateway_app(nats_server.url, tmp_path)
    paths = [(method, path) for path, item in app.openapi()["paths"].items() for method in item if "{" in path]
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as http:
            for name in HOSTILE:
                for method, path in paths:
                    url = "/".join(name if part.startswith("{") else part for part in path.split("/"))
                    answer = await http.request(method, url, headers=ADMIN, json={} if method == "post" else None)
                    no_notifier = answer.status_code == 503 and "the notifier does not respond" in answer.text
                    assert answer.status_code < 500 or no_notifier, (method, url[:80], answer.text[:200])
            assert (await http.get("/v1/pools", headers=ADMIN)).status_code == 200
            gone = await http.post("/v1/pools/nope/scale", headers=ADMIN, json={"replicas": 1})
            assert gone.status_code == 404


async def test_what_nobody_can_read_is_left_out_of_listings(
    nats_server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    js = nc.jetstream()
    rubbish = (b"", b"{", b'{"job_id": 3}', b"\xff\xfe")
    for number, body in enumerate(rubbish):
        await js.publish(subjects.result(f"bad{number}"), body)
        for subject in ("alerts.warning.n.d", "audit.notifier", "outcomes.x", "decisions.x", "recommendations.x"):
            await js.publish(subject, body)
        await js.publish("commands.scale.x", body)
        await js.publish("dead.x", body)
        for bucket in ("subscriptions", "silences", "open_alerts", "acknowledged", "pools", "inventory", "policy"):
            await (await js.key_value(bucket)).put("fleet" if bucket == "policy" else f"bad{number}", body)
    async with gateway_http(nats_server.url, tmp_path) as http:
        for path in (
            "jobs", "jobs/bad0", "jobs/bad1", "dead", "alerts", "alerts/history", "alerts/acknowledged", "incidents",
            "risks", "deliveries", "subscriptions", "silences", "devices", "pools", "decisions", "decisions/x",
            "decisions/records", "recommendations", "policy", "models",
        ):  # fmt: skip
            answer = await http.get(f"/v1/{path}", headers=ADMIN)
            assert answer.status_code < 500, (path, answer.text[:300])


async def test_whose_key_it_was_is_written_down_and_keys_change_without_a_restart(
    nats_server: NatsServer, nc: Client, client: AutopilotClient, tmp_path: Path
) -> None:
    async with gateway_http(nats_server.url, tmp_path) as http:
        made = await http.post("/v1/subscriptions", headers={"X-API-Key": "o"}, json={"url": "https://h.example/s?t=1"})
        assert made.json()["url"] == "https://h.example/s?t=1"
        hidden = (await http.get("/v1/subscriptions", headers={"X-API-Key": "v"})).json()
        assert hidden[0]["url"] == "https://h.example/hidden"
        shown = (await http.get("/v1/subscriptions", headers=ADMIN)).json()
        assert shown[0]["url"] == "https://h.example/s?t=1"
        ends = "2999-01-01T00:00:00Z"
        silence = (await http.post("/v1/silences", headers={"X-API-Key": "old"}, json={"ends_at": ends})).json()
        assert silence["created_by"] == f"key-{digest('old')[:8]}"
        job = (await http.post("/v1/jobs", headers=ADMIN, json={"kind": "echo", "payload": {}})).json()
        assert (await http.delete(f"/v1/jobs/{job['id']}", headers=ADMIN)).status_code == 200
        keys = KEYS | {digest("new"): {"role": "viewer", "user": "nora"}}
        del keys[digest("v")]
        (tmp_path / "keys.json").write_text(json.dumps(keys))

        async def known(key: str) -> bool:
            return (await http.get("/v1/pools", headers={"X-API-Key": key})).status_code == 200

        await eventually(lambda: known("new"))
        assert not await known("v")
    info = await client.js.stream_info("AUDIT", subjects_filter="audit.>")
    actors = {subjects.untoken(subject.split(".")[1]) for subject in info.state.subjects or {}}
    assert {"olga", "ada", f"key-{digest('old')[:8]}"} <= actors
    assert "api" not in actors


async def test_streams_of_a_key_are_limited_and_given_back() -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    limit = StreamLimit(2)

    def request() -> Any:
        return SimpleNamespace(state=SimpleNamespace(caller=SimpleNamespace(user="u"), cleanups=[]))

    first, second = request(), request()
    limit.enter(first)
    limit.enter(second)
    with pytest.raises(BusyError):
        limit.enter(cast("Any", request()))
    first.state.cleanups[0]()
    limit.enter(request())


async def test_half_requests_are_closed_and_the_others_served(
    nats_server: NatsServer, nc: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_protocol.TimedProtocol, "headers_s", 0.5)
    async with gateway_on_a_port(nats_server.url, tmp_path) as port:
        halves = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in halves[::2]:
            writer.write(b"GET /v1/pools HTTP/1.1\r\nHost: x\r\n")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/v1/pools", headers=ADMIN)).status_code == 200
            live = await http.send(http.build_request("GET", "/v1/alerts/live", headers=ADMIN), stream=True)
            await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in halves)), 10)
            alert = {"id": "a", "node": "n", "device": "d"}
            await nc.publish("alerts.warning.n.d", json.dumps(alert).encode())
            assert live.status_code == 200
            await live.aclose()


async def test_a_broker_that_stands_still_is_a_503_and_not_ready(
    nats_server: NatsServer, nc: Client, tmp_path: Path
) -> None:
    async with gateway_http(nats_server.url, tmp_path) as http:
        assert nats_server._process is not None
        os.kill(nats_server._process.pid, signal.SIGSTOP)
        try:
            routes = ("/v1/pools", "/v1/jobs", "/v1/policy", "/v1/jobs/x", "/v1/models")
            answers = await asyncio.gather(
                *(http.get(path, headers=ADMIN) for path in routes),
                http.post("/v1/jobs", headers=ADMIN, json={"kind": "echo", "payload": {}}),
                http.post("/v1/silences", headers=ADMIN, json={"ends_at": "2999-01-01T00:00:00Z"}),
            )
        finally:
            os.kill(nats_server._process.pid, signal.SIGCONT)
        assert {a.status_code for a in answers} == {503}
        assert all("retry-after" in a.headers for a in answers)


async def test_a_connection_that_is_closed_for_good_ends_the_process(
    nats_server: NatsServer, nc: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(nats_connection, "end_process", lambda: ended.append(True))
    app = gateway_app(nats_server.url, tmp_path)
    async with app.router.lifespan_context(app):
        assert not ended
        # What nats-server answers to a subject that is too long closes the library's client for good.
        await app.state.client.nc._process_err("maximum control line exceeded")
        await eventually(lambda: ended)


@pytest.mark.parametrize("listens", [False, True])
def test_a_program_whose_server_does_not_answer_still_ends(listens: bool) -> None:
    import socket
    import threading

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        before = set(threading.enumerate())
        with pytest.raises(UnavailableError, match="autopilot up"):
            connect(url, timeout=1.0)
        left = {t for t in threading.enumerate() if not t.daemon} - before
        assert not left


async def test_every_command_is_written_down_with_what_it_asks_for(client: AutopilotClient) -> None:
    await client.steering.cap_power("n", "d", 150.0)
    await client.steering.drain("n", "d", "drain")
    await client.steering.scale("p", 3)
    seen = {}
    for sequence in range(1, 4):
        message = await client.js.get_msg("AUDIT", sequence)
        entry = AuditRecord.model_validate_json(message.data or b"")
        seen[entry.action] = (entry.actor, entry.target, entry.detail)
    assert seen["command.power"][2]["cap_w"] == "150.0"
    assert seen["command.drain"][2]["action"] == "drain"
    assert seen["command.scale"][:2] == ("tester", "p")


async def test_one_caller_leaves_requests_to_the_others(nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
    async with (
        gateway_on_a_port(nats_server.url, tmp_path, requests_per_key=2) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
        http.stream("GET", "/v1/alerts/live", headers={"X-API-Key": "v"}) as first,
        http.stream("GET", "/v1/alerts/live", headers={"X-API-Key": "v"}) as second,
    ):
        assert (first.status_code, second.status_code) == (200, 200)
        refused = await http.get("/v1/policy", headers={"X-API-Key": "v"})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert (await http.get("/v1/policy", headers={"X-API-Key": "o"})).status_code == 200
        await first.aclose()

        async def let_in() -> bool:
            return (await http.get("/v1/policy", headers={"X-API-Key": "v"})).status_code == 200

        await eventually(let_in)


async def test_subscriptions_and_silences_are_only_so_many(
    client: AutopilotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "MAX_SUBSCRIPTIONS", 2)
    monkeypatch.setattr(alerts, "MAX_SILENCES", 2)
    bucket = await client.js.key_value("silences")
    long_over = {"id": "old", "starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-01-02T00:00:00Z", "created_by": "x"}
    await bucket.put("old", json.dumps(long_over).encode())
    for _ in range(2):
        await client.alerts.subscribe("https://example.com")
        await client.alerts.silence(utc_now() + timedelta(hours=1))
    with pytest.raises(ConflictError, match="2 subscriptions"):
        await client.alerts.subscribe("https://example.com")
    with pytest.raises(ConflictError, match="2 silences"):
        await client.alerts.silence(utc_now() + timedelta(hours=1))
    with pytest.raises(KeyNotFoundError):
        await bucket.get("old")
