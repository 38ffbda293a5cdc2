"""A storm of alerts to many receivers, of which one hangs and one fails, and when the others are told.

python -m tests.benchmarks.notify [--short]: each subscription takes one node's alerts. Beside it the bare cost of the
same posts: one HTTP client, no signatures, no consumers, no log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import httpx
from nats.aio.client import Client

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import last_messages
from tests.support.broker import bench_broker
from tests.support.waiting import eventually

SECRET = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
HANGS, FAILS = "node-0", "node-1"


class Receivers:
    """One HTTP server that is every receiver: /<node> takes a post, hangs or fails."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []
        self.order: dict[str, list[int]] = defaultdict(list)
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length")
                )
                body = await reader.readexactly(length)
                path = head.split(" ", 2)[1].strip("/")
                if path == HANGS:
                    await asyncio.sleep(3600)
                status = "500 No" if path == FAILS else "204 Yes"
                if status.startswith("204"):
                    self._note(path, json.loads(body))
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _note(self, node: str, body: dict[str, dict[str, str | int]]) -> None:
        told = body["data"]
        self.delays_s.append((utc_now() - datetime.fromisoformat(str(told["at"]))).total_seconds())
        self.order[node].append(int(told["count"]))


def alert_of(node: str, number: int) -> Alert:
    """The number-th alert of a node's device."""
    return Alert(
        id=f"{node}-{number}", node=node, device="gpu-0", kind="thermal", severity="critical", state="opened",
        summary="hot", opened_at=utc_now(), at=utc_now(), count=number,
    )  # fmt: skip


async def bare(url: str, posts: int) -> float:
    """Posts per second of one HTTP client alone."""
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"type": "alert.opened", "data": alert_of("bare", 0).model_dump(mode="json")}

        async def some(count: int) -> None:
            for _ in range(count):
                await client.post(f"{url}/bare", json=body)

        began = time.perf_counter()
        await asyncio.gather(*(some(posts // 32) for _ in range(32)))
        return posts / (time.perf_counter() - began)


async def storm(nc: Client, nodes: int, each: int) -> float:
    """Publish every alert, acknowledged; returns the seconds it took."""
    js = nc.jetstream()
    gate = asyncio.Semaphore(200)

    async def one(node: str, number: int) -> None:
        async with gate:
            await js.publish(
                subjects.alert("critical", node, "gpu-0"), alert_of(node, number).model_dump_json().encode()
            )

    began = time.perf_counter()
    for number in range(each):
        await asyncio.gather(*(one(f"node-{n}", number) for n in range(nodes)))
    return time.perf_counter() - began


async def run(nodes: int, each: int) -> dict[str, object]:
    """Run the storm."""
    receivers = Receivers()
    await receivers.start()
    with tempfile.TemporaryDirectory(prefix="autopilot-bench-", ignore_cleanup_errors=True) as name:
        async with bench_broker(Path(name)) as broker:
            js = broker.nc.jetstream(timeout=60)
            kv = await js.key_value("subscriptions")
            for n in range(nodes):
                subscription = Subscription.model_validate(
                    {
                        "id": f"s{n}", "url": f"{receivers.url}/node-{n}", "secret": SECRET, "nodes": [f"node-{n}"],
                        "created_at": utc_now(),
                    }
                )  # fmt: skip
                await kv.put(subscription.id, subscription.model_dump_json().encode())
            environment = dict(broker.environment) | {"AUTOPILOT_WEBHOOK_PRIVATE_TARGETS": "true"}
            command = [sys.executable, "-m", "accelerator_autopilot.notifier"]
            notifier = ManagedProcess("notifier", command, environment, Path(name) / "notifier.log")
            await notifier.start()

            async def all_there() -> bool:
                return ((await js.stream_info("ALERTS")).state.consumer_count or 0) >= nodes

            await eventually(all_there, 240)
            bare_rate = await bare(receivers.url, 2_000)
            receivers.delays_s.clear()
            receivers.order.clear()
            published_s = await storm(broker.nc, nodes, each)
            expected = (nodes - 2) * each
            await eventually(lambda: len(receivers.delays_s) >= expected, 300)
            log = await last_messages(js, "AUDIT", subjects.audit("notifier"), AuditRecord, limit=100)
            await notifier.stop()
    delays = sorted(receivers.delays_s)
    in_order = all(numbers == sorted(numbers) for numbers in receivers.order.values())
    p99_s = statistics.quantiles(delays, n=100)[98]
    total_s = max(published_s, delays[-1])
    return {
        "name": "notify", "value": round(expected / total_s), "unit": "deliveries/s", "baseline": round(bare_rate),
        "ratio": round(expected / total_s / bare_rate, 3), "p50_s": round(statistics.median(delays), 3),
        "p99_s": round(p99_s, 3), "subscriptions": nodes, "alerts": nodes * each, "published_s": round(published_s, 2),
        "lost": expected - len({(n, i) for n, numbers in receivers.order.items() for i in numbers}),
        "in_order": in_order, "log_entries_seen": len(log),
    }  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--subscriptions", type=int, default=1_000)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(run(*((50, 10) if arguments.short else (arguments.subscriptions, 10))))))


if __name__ == "__main__":
    main()
