"""Random bytes and mutated messages on every subject and bucket: counted, kept where they are jobs, and no more."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from shared import streams
from shared.client import AutopilotClient
from tests.contract.examples import EXAMPLES, models
from tests.support.product import running_product
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

SUBJECTS = {
    "telemetry.frames.testnode": "DeviceEvent",
    "telemetry.events.testnode.sim-testnode-0": "DeviceEvent",
    "alerts.critical.testnode.sim-testnode-0": "Alert",
    "commands.power.testnode.sim-testnode-0": "PowerCommand",
    "commands.scale.default": "ScaleCommand",
    "commands.batch.default": "BatchCommand",
    "commands.drain.testnode.sim-testnode-0": "DrainCommand",
    "commands.nothing": "PowerCommand",
    "outcomes.c1": "CommandOutcome",
    "recommendations.default": "Recommendation",
    "jobs.echo.normal": "JobBody",
    "jobs.echo.high.j1": "Job",
    "results.j1": "JobResult",
    "dead.echo": "DeadJob",
    "audit.tester": "AuditRecord",
}
CORE_SUBJECTS = {"simulate.testnode": "SimulationRequest", "progress.j1": "JobProgress"}
ODD: tuple[Any, ...] = (None, -1, 1e308, "", "x" * 3000, [], {}, [None], True, "2026-13-45T99:99:99Z")


def rubbish(name: str, chance: random.Random) -> bytes:
    body = json.loads(models()[name].model_validate(EXAMPLES[name]).model_dump_json())
    body[chance.choice(list(body))] = chance.choice(ODD)
    text = json.dumps(body).encode()
    return chance.choice(
        [chance.randbytes(chance.randrange(300)), text, text[: chance.randrange(len(text))], b"", b"[1]"]
    )


async def throw_everywhere(client: AutopilotClient, chance: random.Random) -> None:
    for subject, name in SUBJECTS.items():
        await client.nc.publish(subject, rubbish(name, chance))
    for subject, name in CORE_SUBJECTS.items():
        await client.nc.publish(subject, rubbish(name, chance), reply="_INBOX.nobody")
    for bucket in streams.BUCKETS:
        kv = await client.js.key_value(bucket.bucket)
        for key in ("fleet", "drained", "testnode", "default.testnode", "x"):
            if bucket.bucket != "leader":
                await kv.put(key, rubbish("FleetPolicy", chance))
    await client.nc.flush()


async def behind(client: AutopilotClient) -> int:
    infos = [info for s in streams.STREAMS for info in await client.js.consumers_info(s.name or "")]
    return max((info.num_pending or 0) + (info.num_ack_pending or 0) for info in infos)


async def test_rubbish_everywhere_stops_nothing(tmp_path: Path) -> None:
    chance = random.Random(20)
    async with running_product(tmp_path / "data") as (product, client):
        for _ in range(12):
            await throw_everywhere(client, chance)

        async def settled() -> bool:
            return await behind(client) <= 2 and not any((await product.readiness()).values())

        await eventually(settled, 40, "every consumer past the rubbish and every service ready")
        assert {name: p.restarts for name, p in product.processes.items() if p.restarts} == {}
        handle = await client.jobs.submit("echo", {"text": "still here"})
        assert (await handle.wait(20)).output == {"text": "still here"}
        assert (await client.js.stream_info("DEAD")).state.messages > 12, "unreadable jobs are kept"
