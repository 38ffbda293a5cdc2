"""How a product is after it was thrown at: whole, at work, and able to say what it put aside."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from accelerator_autopilot.cli.webhook_receiver import WebhookCatcher
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.telemetry import SimulationRequest
from accelerator_autopilot.deploy.local.product import EmbeddedProduct
from accelerator_autopilot.transport.clock import utc_now
from tests.support.product import query
from tests.support.waiting import eventually

SIMPLE_JOBS: dict[str, dict[str, Any]] = {
    "echo": {"text": "still here"},
    "analyze-logs": {"text": "2026-01-01 00:00:00 INFO fine\n2026-01-01 00:00:01 ERROR not fine\n"},
    "detect-anomalies": {"rows": [{"a": i % 7, "b": "x"} for i in range(50)]},
}
WITH_A_MODEL: dict[str, dict[str, Any]] = {
    "extract": {"text": "Name: Ada Lovelace. She wrote the first program.", "findings": 1},
    "classify": {"texts": ["the GPU is hot"], "labels": ["hardware", "weather"]},
    "embed": {"texts": ["a", "b"]},
    "summarize": {"text": "A GPU failed. It was replaced. The job ran again and it ended well."},
}
HONEST = "sim-testnode-1"
FIGURES = ("messages_poison_total", "messages_quarantined_total", "kv_unreadable_total", "task_restarts_total",
           "pool_workers_killed_total")  # fmt: skip


@dataclass
class Aftermath:
    """Looks at one product from outside."""

    product: EmbeddedProduct
    client: AutopilotClient
    catcher: WebhookCatcher = field(default_factory=WebhookCatcher)

    def restarts(self) -> dict[str, int]:
        """Processes that ended, by name."""
        found = {name: p.restarts for name, p in self.product.processes.items()}
        found["postgres"] = self.product.postgres.restarts
        return {name: count for name, count in found.items() if count}

    async def metric(self, name: str) -> float:
        """A metric added up over every service and label."""
        assert self.product.runtime is not None
        total = 0.0
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            for port in self.product.runtime.health_ports.values():
                text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
                lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
                total += sum(float(line.rsplit(" ", 1)[1]) for line in lines)
        return total

    async def stored(self, stream: str) -> int:
        """Messages that a stream holds."""
        return int((await self.client.js.stream_info(stream)).state.messages)

    async def honest_jobs_succeed(self, jobs: dict[str, dict[str, Any]]) -> None:
        """One job of each of these kinds, behind all that is queued."""
        handles = {kind: await self.client.jobs.submit(kind, payload) for kind, payload in jobs.items()}
        for kind, handle in handles.items():
            try:
                ended = await handle.wait(120)
            except TimeoutError:
                raise AssertionError(f"{kind} has no result; {await self.whereabouts(kind, handle.id)}") from None
            assert ended.status == "succeeded", f"{kind}: {ended.errors}"

    async def whereabouts(self, kind: str, job_id: str) -> str:
        """Where a job that does not end is, and who should run it."""
        js = self.client.js
        held = (await js.stream_info("JOBS", subjects_filter=f"jobs.*.*.{job_id}")).state.subjects
        consumers = [i for i in await js.consumers_info("JOBS") if kind in i.name]
        lanes = {i.name: (i.num_pending, i.num_ack_pending, i.num_redelivered, i.num_waiting) for i in consumers}
        pools = [p.model_dump_json() for p in await self.client.fleet.pools() if p.node == self.product.options.node]
        return f"queued as {held}; pending, unacknowledged, redelivered and waiting {lanes}; pools {pools}"

    async def samples_reach_the_database(self) -> None:
        """A tick that was sampled after now is a row."""
        assert self.product.runtime is not None
        dsn, since = self.product.runtime.database_url, utc_now()
        sql = """SELECT count(*) AS n FROM samples JOIN devices USING (device_id)
                 WHERE node = 'testnode' AND device = $1 AND ts > $2"""

        async def row() -> bool:
            return bool((await query(dsn, sql, HONEST, since))[0]["n"])

        await eventually(row, 30, "a sample in the database")

    async def alerts_reach_receivers(self) -> None:
        """An XID of a device becomes a signed webhook."""
        self.catcher.start()
        try:
            subscription = await self.client.alerts.subscribe(self.catcher.url, devices=[HONEST])
            await self.client.steering.simulate("testnode", SimulationRequest(device=HONEST, xid=79))

            def told() -> bool:
                return any(c.verified(subscription.secret) for c in self.catcher.caught)

            await eventually(told, 30, "a webhook of an alert")
            await self.client.alerts.unsubscribe(subscription.id)
        finally:
            self.catcher.stop()

    async def dead_letters_are_listed(self) -> None:
        """`autopilot dead` shows an unreadable job, whatever stands in the letters beside it."""
        await self.client.nc.publish(f"jobs.echo.normal.{(marked := f'marked-{new_id()[:8]}')}", b"[/no] job\x1b[2J")

        async def buried() -> bool:
            return any(marked in letter.subject for letter in await self.client.dead.list("echo", 200))

        await eventually(buried, 30, "a dead letter of an unreadable job")
        folder = str(self.product.options.data_dir)
        command = [
            sys.executable,
            "-m",
            "accelerator_autopilot.cli.app",
            "dead",
            "--limit",
            "1000",
            "--data-dir",
            folder,
        ]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "200"},
        )
        output = (await asyncio.wait_for(process.communicate(), 60))[0].decode(errors="replace")
        assert process.returncode == 0, output[-2000:]
        assert "unreadable" in output or "invalid" in output, output[-2000:]
        assert "\x1b[2J" not in output, "a letter speaks to the terminal"

    async def report(self) -> str:
        """Figures, and what the logs say."""
        unready = {name: why for name, why in (await self.product.readiness()).items() if why}
        counted = {name: await self.metric(f"autopilot_{name}") for name in FIGURES}
        stored = {stream: await self.stored(stream) for stream in ("POISON", "DEAD", "JOBS", "LATER", "RESULTS")}
        return f"restarts {self.restarts()}, not ready {unready}\n{counted}\n{stored}\nlogs {self.complaints()}"

    def complaints(self) -> dict[str, int]:
        """What services logged as errors, and exceptions that nobody took."""
        found: Counter[str] = Counter()
        for path in self.product.instance.path("logs").glob("*.log"):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    told = json.loads(line)
                except ValueError:
                    continue
                if isinstance(told, dict) and told.get("level") in {"ERROR", "CRITICAL"}:
                    found[f"{path.stem}: {told.get('event', '')}"[:150]] += 1
        return dict(found)
