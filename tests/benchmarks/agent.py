"""What the agent costs: processor time, memory and punctuality with eight GPUs, at 1 Hz and at 10 Hz.

The driver is one in memory that answers every reading, so the time is the agent's own; what the
driver's stand-in takes is measured and told apart. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nats

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.deploy.local.servers import nats_binary, wait_for_port
from accelerator_autopilot.transport import stream_setup
from tests.benchmarks.agent_process import GPUS


async def measure(url: str, period_s: float, seconds: float) -> dict[str, float]:
    """One agent at one rate, and the punctuality of its frames."""
    from accelerator_autopilot.contracts.frames import decode  # numpy, which the agent's process must not get from here

    command = [sys.executable, "-m", "tests.benchmarks.agent_process", "--url", url, "--period", str(period_s)]
    process = await asyncio.create_subprocess_exec(*command, "--seconds", str(seconds), stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    connection = await nats.connect(url)
    js = connection.jetstream()
    subscription = await js.pull_subscribe(subjects.frames(f"n{period_s}"), stream="TELEMETRY")
    starts = []
    while True:
        try:
            starts += [decode(m.data).start_us / 1e6 for m in await subscription.fetch(500, timeout=1)]
        except TimeoutError:
            break
    await connection.close()
    late = [at - starts[0] - i * period_s for i, at in enumerate(starts)]
    return found | {"frames": len(starts), "drift_s": late[-1], "latest_s": max(late)}


async def run(seconds: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="autopilot-agent-"))
    port = take_port(0, "nats")
    server = subprocess.Popen(
        [nats_binary(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        await wait_for_port(port)
        url = f"nats://127.0.0.1:{port}"
        connection = await nats.connect(url)
        await stream_setup.ensure(connection.jetstream())
        await connection.close()
        slow, fast = await measure(url, 1.0, seconds), await measure(url, 0.1, seconds)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print(
        json.dumps(
            {
                "name": "agent", "value": round(100 * slow["core"], 3), "unit": "% of a core at 1 Hz",
                "baseline": round(100 * slow["driver_core"], 3),
                "ratio": round(slow["core"] / max(1e-9, slow["driver_core"]), 2),
                "limit": 1.0, "rss_mb": round(slow["rss_mb"], 1), "rss_limit_mb": 60, "gpus": GPUS,
                "core_at_10_hz_pct": round(100 * fast["core"], 3), "frames_at_10_hz": fast["frames"],
                "drift_at_10_hz_s": round(fast["drift_s"], 4), "latest_at_10_hz_s": round(fast["latest_s"], 4),
            }
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    asyncio.run(run(5.0 if args.short else args.seconds))


if __name__ == "__main__":
    main()
