"""How soon an alert is published after its sample was: the service as it runs, 10,000 devices at 1 Hz.

python -m tests.benchmarks.detect_live [--short]: frames through a real broker to a real process; now and then a
device's row remapping fails, which is an alert at once. Beside it the broker alone: the same frame to a subscriber.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode, encode
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.deploy.local.supervised_process import ManagedProcess
from accelerator_autopilot.transport.clock import utc_now
from tests.benchmarks.detect import DEVICES_A_NODE, METRICS, second
from tests.support.broker import bench_broker
from tests.support.waiting import eventually

FLAG = METRICS.index("row_remap_failure")


class Delays:
    """Seconds from a frame's publication to the alert and to a bare subscriber, by node."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.alerted: list[float] = []
        self.bare: list[float] = []
        self._heard: set[str] = set()
        self._loop = asyncio.get_running_loop()

    async def on_alert(self, message: Msg) -> None:
        """An alert was published."""
        alert = Alert.model_validate_json(message.data)
        if alert.kind == "row_remap_failure" and alert.state == "opened":
            self.alerted.append(self._loop.time() - self.sent[alert.node])

    async def on_frame(self, message: Msg) -> None:
        """A frame arrived at somebody who does nothing with it."""
        node = message.subject.rsplit(".", 1)[1]
        if node in self.sent and node not in self._heard:
            self._heard.add(node)
            self.bare.append(self._loop.time() - self.sent[node])


async def publish(nc: Client, delays: Delays, nodes: int, seconds: int) -> None:
    """A fleet's frames, spread over each second; from the fifth on some devices fail."""
    loop, rng = asyncio.get_running_loop(), np.random.default_rng(0)
    began, start = loop.time(), int(utc_now().timestamp())
    failing = iter(rng.permutation(nodes))
    for number in range(seconds):
        frames = second(rng, nodes, start + number)
        broken = {int(next(failing)) for _ in range(nodes // 50)} if number >= 5 else set()
        for n, data in enumerate(frames):
            node = f"node-{n}"
            body = data
            if n in broken:
                frame = decode(data)
                values = frame.values.copy()
                values[:, n % DEVICES_A_NODE, FLAG] = 1.0
                body = encode(
                    TelemetryFrame(node, frame.start_us, frame.period_s, frame.devices, frame.metrics, values)
                )
                delays.sent[node] = loop.time()
            await nc.publish(subjects.frames(node), body)
            if n % 25 == 0:
                await asyncio.sleep(max(0.0, began + number + n / nodes - loop.time()))
    await nc.flush()


async def run(nodes: int, seconds: int) -> dict[str, object]:
    """Run it."""
    with tempfile.TemporaryDirectory(prefix="autopilot-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        async with bench_broker(folder) as broker:
            nc, js = broker.nc, broker.nc.jetstream()
            environment = dict(broker.environment) | {"AUTOPILOT_DATA_DIR": str(folder / "data")}
            command = [sys.executable, "-m", "accelerator_autopilot.anomaly"]
            service = ManagedProcess("anomaly", command, environment, folder / "anomaly.log")
            await service.start()

            async def consuming() -> bool:
                return ((await js.stream_info("EVENTS")).state.consumer_count or 0) > 0

            await eventually(consuming, 60)
            delays = Delays()
            await nc.subscribe(subjects.ALERTS, cb=delays.on_alert)
            await nc.subscribe(subjects.FRAMES, cb=delays.on_frame)
            await publish(nc, delays, nodes, seconds)
            await eventually(lambda: len(delays.alerted) >= len(delays.sent), 30)
            await service.stop()

    def ms(values: list[float], percentile: int) -> float:
        return round(statistics.quantiles(values, n=100)[percentile - 1] * 1e3, 1)

    return {
        "name": "detect_live", "value": ms(delays.alerted, 99), "unit": "ms p99 from sample to alert",
        "baseline": ms(delays.bare, 99), "ratio": round(ms(delays.alerted, 99) / ms(delays.bare, 99), 2),
        "p50_ms": ms(delays.alerted, 50), "devices": nodes * DEVICES_A_NODE, "faults": len(delays.sent),
        "alerts": len(delays.alerted),
    }  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(run(*((250, 12) if arguments.short else (1_250, 45))))))


if __name__ == "__main__":
    main()
