"""The database away under load: nothing lost, and how long it takes to catch up.

2,500 nodes of 8 devices publish at 1 Hz, 20,000 device ticks a second, all through the outage and
after it. `value` is the time from the database's return until no frame waits, `baseline` the outage.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import nats

from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import EmbeddedPostgres, nats_binary, wait_for_port
from accelerator_autopilot.runtime.database import migrate
from accelerator_autopilot.transport import stream_setup
from tests.benchmarks.ingest import DEVICES, count_rows, recorded, run_publisher

NODES = 2500


async def run(outage_s: int, tail_s: int) -> None:  # noqa: PLR0915  one measurement from begin to end
    folder = Path(tempfile.mkdtemp(prefix="autopilot-outage-"))
    folder.chmod(0o755)
    port, health = take_port(0, "nats"), take_port(0, "health")
    url = f"nats://127.0.0.1:{port}"
    command = [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "nats")]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    postgres = EmbeddedPostgres(folder / "pg")
    await postgres.start()
    admin = await asyncpg.connect(postgres.url)
    await admin.execute("CREATE DATABASE fleet")
    dsn = postgres.url.replace("/postgres?", "/fleet?")
    recorder = None
    try:
        await wait_for_port(port)
        await migrate(dsn)
        connection = await nats.connect(url)
        await stream_setup.ensure(connection.jetstream())
        env = os.environ | {
            "AUTOPILOT_NATS_URL": url, "AUTOPILOT_DATABASE_URL": dsn, "AUTOPILOT_HEALTH_PORT": str(health),
            "AUTOPILOT_LOG_LEVEL": "ERROR", "AUTOPILOT_DEVICE_METRICS_LIMIT": "0",
        }  # fmt: skip
        recorder = subprocess.Popen([sys.executable, "-m", "accelerator_autopilot.telemetry", "recorder"], env=env)
        await wait_for_port(health, deadline_s=30)
        publishing = asyncio.create_task(run_publisher(url, NODES, seconds=10 + outage_s + tail_s, name="o"))
        await asyncio.sleep(10)
        await admin.execute("ALTER DATABASE fleet ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'fleet'")
        away = time.monotonic()
        await asyncio.sleep(outage_s)
        await admin.execute("ALTER DATABASE fleet ALLOW_CONNECTIONS true")
        back = time.monotonic()
        js = connection.jetstream()
        while True:
            info = await js.consumer_info("TELEMETRY", "recorder-frames")
            # A second's frames are on their way at any time.
            if (info.num_pending or 0) + (
                info.num_ack_pending or 0
            ) < 2 * NODES or time.monotonic() - back > 3 * outage_s:
                break
            await asyncio.sleep(0.2)
        caught_up = time.monotonic() - back
        sent = (await publishing)["sent"] * DEVICES
        until = time.monotonic() + 60
        while (await recorded(health))["autopilot_recorded_samples_total"] < sent and time.monotonic() < until:
            await asyncio.sleep(0.5)
        rows = await count_rows(dsn)
        await connection.close()
        print(
            json.dumps(
                {
                    "name": "outage", "value": round(caught_up, 1), "unit": "s to catch up",
                    "baseline": round(back - away, 1), "ratio": round(caught_up / (back - away), 3), "limit_ratio": 2.0,
                    "device_ticks_per_s": NODES * DEVICES, "rows": rows, "lost": sent - rows,
                }
            )
        )  # fmt: skip
    finally:
        if recorder is not None:
            recorder.terminate()
            recorder.wait()
        await admin.close()
        await postgres.stop()
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="twenty seconds away")
    parser.add_argument("--seconds", type=int, default=600, help="how long the database is away")
    args = parser.parse_args()
    asyncio.run(run(20, 20) if args.short else run(args.seconds, 120))


if __name__ == "__main__":
    main()
