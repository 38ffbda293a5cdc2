"""Every route that reads, over streams and buckets as thirty days of a fleet leave them."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import encode
from accelerator_autopilot.contracts.metric_catalogue import METRICS
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port, write_nats_config
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport import stream_setup
from accelerator_autopilot.transport.clock import utc_now
from tests.contract.examples import EXAMPLES, models
from tests.support.builders import device, frame
from tests.support.gateway import gateway_http

AT_ONCE = 500
MINUTES = 30 * 1440
RESULTS, QUEUED, BATCH = 40_000, 10_000, 10_000
Messages = Iterable[tuple[str, bytes]]
STREAMS_WITHOUT_END = ("/live", "/events")


def body(model: str, **more: Any) -> bytes:
    """An example of a message with some other fields."""
    return models()[model].model_validate(EXAMPLES[model] | more).model_dump_json().encode()


def each(subject: str, template: bytes, count: int) -> Messages:
    """Messages that differ in their number, `@` in subject and body."""
    return ((subject.replace("@", str(n)), template.replace(b"@", str(n).encode())) for n in range(count))


def kept(nodes: int) -> Iterable[Messages]:
    """What thirty days leave: an alert each two minutes, a decision each minute, the newest of everything."""
    now = utc_now()
    recently = (now - timedelta(hours=2)).isoformat()
    yield each("alerts.warning.n1.gpu-0", body("Alert", id="a@", opened_at=recently, at=recently), MINUTES // 2)
    yield each("decisions.d@", body("DecisionRecord", id="d@", command_id="c@"), MINUTES)
    yield each("outcomes.c@", body("CommandOutcome", id="o@", command_id="c@"), MINUTES)
    command = {"id": "c@", "at": recently, "expires_at": recently}
    yield each("commands.scale.default", body("ScaleCommand", **command), 1440)
    yield each("commands.power.n1.gpu-0", body("PowerCommand", **command), 1440)
    yield each("recommendations.default", body("Recommendation", id="r@"), 5_000)
    yield each("audit.notifier", body("AuditRecord", id="x@"), MINUTES)
    yield each("dead.echo", body("DeadJob", id="j@"), 5_000)
    yield each("results.r@", body("JobResult", job_id="r@"), RESULTS)
    yield each("results.b1.@", body("JobResult", job_id="b1.@"), BATCH)
    yield each("jobs.echo.normal.q@", body("JobBody"), QUEUED)
    devices = tuple(f"gpu-{n}" for n in range(8))
    metrics = tuple(metric.name for metric in METRICS[:24])
    for number in range(nodes):
        told = frame(f"n{number}", devices, metrics, start=now, sequence=1)
        yield [(subjects.frames(f"n{number}"), encode(told))]


def buckets(nodes: int) -> Iterable[tuple[str, str, bytes]]:
    """Keys of buckets."""
    for number in range(nodes):
        its = [device(device=f"gpu-{n}").model_dump() for n in range(8)]
        yield "inventory", f"n{number}", body("NodeInventory", node=f"n{number}", devices=its)
        yield "pools", f"default.n{number}", body("PoolStatus", node=f"n{number}")
    for number in range(200):
        opened = body("Alert", id=f"a{number}", device=f"gpu-{number}", kind="thermal")
        yield "open_alerts", subjects.alert_key("n1", f"gpu-{number}", "thermal"), opened
        yield "acknowledged", f"a{number}", body("Acknowledgement", alert_id=f"a{number}")
        yield "silences", f"q{number}", body("Silence", id=f"q{number}")
        yield "subscriptions", f"s{number}", body("Subscription", id=f"s{number}")
    yield "batches", "b1", body("Batch", count=BATCH)


async def fill(js: JetStreamContext, nodes: int) -> int:
    """Everything; how many messages."""
    count, waiting = 0, set[asyncio.Task[Any]]()
    for messages in kept(nodes):
        for subject, data in messages:
            waiting.add(asyncio.create_task(js.publish(subject, data)))
            count += 1
            if len(waiting) >= AT_ONCE:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*waiting)
    for bucket, key, data in buckets(nodes):
        await (await js.key_value(bucket)).put(key, data)
        count += 1
    return count


async def ask(http: httpx.AsyncClient) -> dict[str, float]:
    """Milliseconds of every route that reads, the second time that it is asked."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    named = {"job_id": "r7", "batch_id": "b1", "name": "m", "decision": "d7", "week": "2026-W01"}
    taken: dict[str, float] = {}
    for path, item in paths.items():
        if "get" not in item or path.endswith(STREAMS_WITHOUT_END):
            continue
        url = path.format_map(named)
        if any(parameter["name"] == "limit" for parameter in item["get"].get("parameters", [])):
            url += "?limit=1000"
        for _ in range(2):
            began = time.perf_counter()
            answer = await http.get(url)
            taken[f"GET {url}"] = (time.perf_counter() - began) * 1e3
            if answer.status_code >= 500:
                raise RuntimeError(f"{url}: {answer.status_code} {answer.text[:200]}")
    return taken


async def routes(nodes: int) -> tuple[dict[str, float], int, float]:
    """Milliseconds of each route, how many messages there were, and seconds to fill them in."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = take_port(0, "nats")
        config = write_nats_config(folder, port, "bench", "bench", sync="2m")
        server = ManagedProcess("nats", [nats_binary(), "-c", str(config)], os.environ, folder / "nats.log")
        await server.start()
        try:
            await wait_for_port(port)
            url = f"nats://bench:bench@127.0.0.1:{port}"
            nc = await nats.connect(url)
            js = nc.jetstream()
            await stream_setup.ensure(js)
            began = time.perf_counter()
            messages = await fill(js, nodes)
            filled_s = time.perf_counter() - began
            async with gateway_http(url, folder) as http:
                http.headers["X-API-Key"] = "a"
                taken = await ask(http)
            await nc.close()
        finally:
            await server.stop()
    return taken, messages, filled_s


async def main() -> None:
    """Every route, the slowest first."""
    taken, messages, filled_s = await routes(nodes=13)
    for where, milliseconds in sorted(taken.items(), key=lambda item: -item[1]):
        print(f"{milliseconds:8.1f} ms  {where}")
    print(json.dumps({"name": "storage_routes", "messages": messages, "filled_s": round(filled_s, 1)}))


if __name__ == "__main__":
    asyncio.run(main())
