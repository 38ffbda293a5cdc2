"""Whatever a caller names that does not exist is a 404, and a command that nobody answers is a 202."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import ConflictError
from accelerator_autopilot.contracts.messages.commands import Recommendation
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, NodeInventory
from accelerator_autopilot.gateway.routes import fleet
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.builders import alert
from tests.support.gateway import gateway_app, gateway_http

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

ADMIN = {"X-API-Key": "a"}
ALERT = alert(id="a").model_dump(mode="json")
# Every route with an id in its path; what it is sent.
UNKNOWN: dict[tuple[str, str], Any] = {
    ("get", "/v1/jobs/{job_id}"): None,
    ("delete", "/v1/jobs/{job_id}"): None,
    ("get", "/v1/jobs/{job_id}/events"): None,
    ("get", "/v1/batches/{batch_id}"): None,
    ("get", "/v1/batches/{batch_id}/results"): None,
    ("delete", "/v1/batches/{batch_id}"): None,
    ("post", "/v1/dead/{job_id}/replay"): None,
    ("get", "/v1/models/{name}"): None,
    ("post", "/v1/devices/{device}/cap"): {"cap_w": 100.0},
    ("post", "/v1/devices/{device}/drain"): {"action": "drain"},
    ("post", "/v1/pools/{pool}/scale"): {"replicas": 1},
    ("get", "/v1/decisions/{decision}"): None,
    ("post", "/v1/recommendations/{recommendation}/approve"): None,
    ("get", "/v1/reports/{week}"): None,
    ("delete", "/v1/subscriptions/{subscription_id}"): None,
    ("post", "/v1/subscriptions/{subscription_id}/test"): None,
    ("post", "/v1/subscriptions/{subscription_id}/deliveries"): ALERT,
    ("post", "/v1/alerts/{alert_id}/acknowledge"): {"note": "mine"},
    ("delete", "/v1/silences/{silence_id}"): None,
}


async def test_every_unknown_id_is_a_404_that_names_it(nats_server: NatsServer, nc: Client, tmp_path: Path) -> None:
    paths = gateway_app(nats_server.url, tmp_path).openapi()["paths"]
    assert set(UNKNOWN) == {(method, path) for path, item in paths.items() for method in item if "{" in path}
    async with gateway_http(nats_server.url, tmp_path) as http:
        for (method, path), body in UNKNOWN.items():
            name = "2020-W01" if "week" in path else "nope"
            url = "/".join(name if part.startswith("{") else part for part in path.split("/"))
            answer = await http.request(method, url, headers=ADMIN, json=body)
            assert (answer.status_code, name in answer.text) == (404, True), (method, url, answer.text)
            form = "application/json" if "models" in path else "application/problem+json"
            assert answer.headers["content-type"] == form, url


async def test_a_command_that_nobody_answers_is_a_202(
    nats_server: NatsServer, nc: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "OUTCOME_S", 0.2)
    js = nc.jetstream()
    pool = PoolStatus(pool="p", node="n", at=utc_now(), desired=1, kinds=["echo"], workers=[])
    device = DeviceInfo(device="d", model="m", source="nvml")
    node = NodeInventory(node="n", at=utc_now(), period_s=1.0, devices=[device])
    async with gateway_http(nats_server.url, tmp_path) as http:
        await (await js.key_value("pools")).put("p.n", pool.model_dump_json().encode())
        await (await js.key_value("inventory")).put("n", node.model_dump_json().encode())
        for path in ("pools/p/scale", "devices/d/cap", "devices/d/drain"):
            kind = path.rpartition("/")[2]
            body = next(sent for (_, route), sent in UNKNOWN.items() if route.endswith(f"/{kind}"))
            answer = await http.post(f"/v1/{path}", headers=ADMIN, json=body)
            assert (answer.status_code, answer.headers["location"]) == (202, "/v1/decisions"), answer.text


def advice(name: str, **more: Any) -> Recommendation:
    told = {"scope": "p", "action": "scale to 2", "reason": "backlog", "expected_effect": "1 to 2", "confidence": 0.5}
    command = {"pool": "p", "replicas": 2}
    subject = subjects.scale_command("p")
    return Recommendation.model_validate(
        {"id": name, "at": utc_now(), "subject": subject, "command": command} | told | more
    )


async def test_a_recommendation_is_approved_while_it_holds_and_refused_afterwards(
    nats_server: NatsServer, client: AutopilotClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "OUTCOME_S", 0.2)
    now = utc_now()
    for each in (
        advice("new", expires_at=now + timedelta(minutes=1)),
        advice("over", expires_at=now - timedelta(seconds=1)),
        advice("old", at=now - timedelta(hours=2)),
    ):
        await client.steering.recommend(each)
    async with gateway_http(nats_server.url, tmp_path) as http:
        answers = await asyncio.gather(
            *(http.post(f"/v1/recommendations/{name}/approve", headers=ADMIN) for name in ("new", "over", "old"))
        )
    assert [a.status_code for a in answers] == [202, 409, 409]
    assert all("expired at" in a.text for a in answers[1:])
    commands = await client.fleet.decisions()
    assert [c.command.reason for c in commands] == ["approved-new"]
    with pytest.raises(ConflictError, match="recommendation over"):
        await client.steering.approve(advice("over", expires_at=now - timedelta(seconds=1)))
