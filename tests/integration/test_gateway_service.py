"""The gateway as a service of its own, over a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client

from accelerator_autopilot.gateway.app import create_app as create_gateway
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime.api_keys import digest
from tests.conftest import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]


class TestGateway:
    @asynccontextmanager
    async def http(self, nats_server: NatsServer, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
        keys = folder / "keys.json"
        keys.write_text(json.dumps({digest("v"): "viewer", digest("o"): "operator", digest("a"): "admin"}))
        app = create_gateway(GatewaySettings(nats_url=nats_server.url, api_keys_file=keys, max_body_bytes=2000))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client

    async def test_keys_roles_and_problems(self, nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
        async with self.http(nats_server, tmp_path) as http:
            job = {"kind": "echo", "payload": {"text": "x"}}
            assert (await http.get("/v1/devices")).status_code == 401
            assert (await http.get("/v1/devices", headers={"X-API-Key": "wrong"})).status_code == 401
            refused = await http.post("/v1/jobs", json=job, headers={"X-API-Key": "v"})
            assert refused.status_code == 403
            assert refused.headers["content-type"] == "application/problem+json"
            assert "operator" in refused.json()["detail"]
            bad = await http.post("/v1/jobs", json=job | {"priority": "now"}, headers={"X-API-Key": "o"})
            assert bad.status_code == 422
            assert bad.json()["errors"][0]["field"] == "body.priority"
            assert (await http.get("/v1/jobs/none", headers={"X-API-Key": "v"})).status_code == 404
            assert (await http.put("/v1/policy", json={}, headers={"X-API-Key": "o"})).status_code == 403
            large = await http.post("/v1/jobs", content=b"x" * 3000, headers={"X-API-Key": "o"})
            assert large.status_code == 413
            hidden = await http.get("/v1/subscriptions", headers={"X-API-Key": "v"})
            assert hidden.json() == []

    async def test_jobs_and_policy(self, nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
        async with self.http(nats_server, tmp_path) as http:
            headers = {"X-API-Key": "a", "Idempotency-Key": "same"}
            job = {"kind": "echo", "payload": {"text": "x"}}
            first = await http.post("/v1/jobs", json=job, headers=headers)
            again = await http.post("/v1/jobs", json=job, headers=headers)
            assert (first.status_code, again.json()["duplicate"]) == (202, True)
            assert first.json()["id"] == again.json()["id"]
            where = first.headers["location"]
            assert (await http.get(where, headers=headers)).json()["state"] == "queued"
            listed = await http.get("/v1/jobs", headers=headers)
            assert [j["id"] for j in listed.json()] == [first.json()["id"]]
            assert (await http.delete(where, headers=headers)).json()["state"] == "cancelled"
            assert (await http.delete(where, headers=headers)).status_code == 409
            policy = (await http.get("/v1/policy", headers=headers)).json()
            put = await http.put("/v1/policy", json=policy | {"mode": "advise"}, headers=headers)
            assert put.status_code == 200
            assert (await http.get("/v1/policy", headers=headers)).json()["mode"] == "advise"
