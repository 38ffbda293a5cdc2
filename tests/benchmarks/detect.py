"""How many metric points a second the detector looks at, and how soon an alert follows its sample.

python -m tests.benchmarks.detect [--short]: points per second of one core through decoding and all detection, with
24 metrics; then one second of 100,000 devices at a time, as a share of that second; memory a device.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Sequence

import numpy as np

from accelerator_autopilot.anomaly.application.message_handlers import Detection
from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.detectors import all_detectors
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode, encode
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.transport.clock import utc_now

METRICS = (
    "gpu_util_pct", "mem_util_pct", "power_w", "temp_c", "temp_mem_c", "fan_pct", "clock_sm_mhz", "clock_mem_mhz",
    "memory_used_bytes", "memory_total_bytes", "power_cap_w", "temp_slowdown_c", "clock_event_reasons", "ecc_sbe",
    "ecc_dbe", "pcie_replays", "row_remap_pending", "row_remap_failure", "pcie_gen", "pcie_width", "nvlink_active",
    "energy_j", "sm_util_pct", "dram_util_pct",
)  # fmt: skip
DEVICES_A_NODE = 8


def second(rng: np.random.Generator, nodes: int, at_s: int) -> list[bytes]:
    """One second's frames of a fleet."""
    devices = tuple(f"GPU-{i}" for i in range(DEVICES_A_NODE))
    util = rng.uniform(0, 100, (nodes, DEVICES_A_NODE)).astype(np.float32)
    values = np.zeros((nodes, 1, DEVICES_A_NODE, len(METRICS)), np.float32)
    for column, name in enumerate(METRICS):
        base = {"memory_used_bytes": 4e10, "memory_total_bytes": 8e10, "power_cap_w": 400.0, "temp_slowdown_c": 90.0}
        values[:, 0, :, column] = base.get(name, 0.0)
    values[:, 0, :, 0], values[:, 0, :, 1] = util, 0.5 * util
    values[:, 0, :, 2] = 60 + 3 * util * rng.normal(1, 0.02, util.shape)
    values[:, 0, :, 3] = 30 + 0.1 * values[:, 0, :, 2] + rng.normal(0, 0.3, util.shape)
    values[:, 0, :, 4] = values[:, 0, :, 3] + 8
    values[:, 0, :, 6] = 1900 + rng.normal(0, 5, util.shape)
    return [
        encode(TelemetryFrame(f"node-{n}", at_s * 1_000_000, 1.0, devices, METRICS, values[n])) for n in range(nodes)
    ]


async def run(nodes: int, seconds: Sequence[list[bytes]]) -> tuple[list[float], int, DetectionEngine]:
    """Processor seconds of each fleet second, the alerts told, and the watch."""
    told = 0

    async def publish(_: Alert) -> None:
        nonlocal told
        told += 1

    watch = DetectionEngine()
    detection = Detection(watch, all_detectors(), AlertLifecycle(), publish, utc_now)
    spent = []
    for frames in seconds:
        began = time.process_time()
        # As the service takes them in: a few bunches a second.
        for first in range(0, nodes, 4_000):
            await detection.on_frames([decode(frame) for frame in frames[first : first + 4_000]])
        await detection.on_time(utc_now())
        spent.append(time.process_time() - began)
    return spent, told, watch


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    nodes, count = (1_250, 22) if arguments.short else (12_500, 33)
    rng = np.random.default_rng(0)
    start = int(utc_now().timestamp()) - count
    seconds = [second(rng, nodes, start + n) for n in range(count)]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent, told, watch = asyncio.run(run(nodes, seconds))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024
    # The first second makes slots and the tenth is the first that is learnt from: both are part of it.
    steady = spent[2:]
    points = nodes * DEVICES_A_NODE * len(METRICS)
    decoding = time.process_time()
    for frame in seconds[0]:
        decode(frame)
    decoding = time.process_time() - decoding
    value = points * len(steady) / sum(steady)
    print(
        json.dumps(
            {
                "name": "detect",
                "value": round(value),
                "unit": "points/s/core",
                "baseline": round(points / decoding),
                "ratio": round(value * decoding / points, 3),
                "devices": nodes * DEVICES_A_NODE,
                "cores_at_1_hz": round(sum(steady) / len(steady), 3),
                "slowest_second": round(max(steady), 3),
                "bytes_learnt_a_device": watch.bytes_per_device,
                "bytes_a_device": round(grown / (nodes * DEVICES_A_NODE)),
                "alerts": told,
            }
        )
    )


if __name__ == "__main__":
    main()
