"""One decision for a fleet of 1,000 pools and 100,000 devices on one core, without the broker.

    python -m tests.benchmarks.decide [--short]

Everything between what was read and what is commanded: every policy of the panel, the governor, the levels of
the devices, the caps under every limit. Beside it the champion's network alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from services.scheduler.acting import Actor
from services.scheduler.device_deciding import DeviceDecider, levels_by_device
from services.scheduler.domain.champion import Championship
from services.scheduler.domain.governor import Governor
from services.scheduler.domain.observation import PoolObservation
from services.scheduler.domain.panel import Panel
from services.scheduler.domain.policies import policy_maker
from services.scheduler.domain.power_curves import curve_of
from services.scheduler.pool_deciding import PoolDecider
from services.scheduler.settings import SchedulerSettings
from shared.messages.commands import FleetPolicy, PoolPolicy, PowerBudget
from tests.support.builders import at, device


class CountingBus:
    """Takes what is published and counts it."""

    def __init__(self) -> None:
        self.sent = 0

    async def publish(self, subject: str, message: Any, message_id: str) -> None:
        self.sent += 1

    async def read(self, bucket: str, key: str, model: Any) -> None:
        return None

    async def write(self, bucket: str, key: str, value: Any) -> None:
        return None


def observe(pools: int, devices: list[tuple[str, str]], seconds: float, random: np.random.Generator) -> list[Any]:
    """A fleet whose pools are busier or idler at each look, so that hundreds of them want another size."""
    each = len(devices) // pools
    curve = curve_of("V100", 250.0, 100.0)
    bounds = PoolPolicy(ceiling=each)
    busy = random.integers(0, 4, pools)
    return [
        PoolObservation(
            pool=f"p{i}", at=at(seconds), desired=4, ready=4, starting=0, busy=int(busy[i]), waiting=0,
            oldest_wait_s=0.0, arrivals=int(busy[i]), completions=int(busy[i]), service_s=1.0, load_time_s=5.0,
            power_w=400.0, bounds=bounds, curve=curve, devices=devices[i * each : i * each + 4],
        )
        for i in range(pools)
    ]  # fmt: skip


async def measure(pools: int, devices_of_pool: int, rounds: int) -> dict[str, float]:
    """Seconds of a round, by part."""
    names = [(f"n{i // 8}", f"gpu-{i % 8}") for i in range(pools * devices_of_pool)]
    fleet = {name: device(device=name[1]) for name in names}
    caps_now = dict.fromkeys(names, 250.0)
    now, bus, random = [0.0], CountingBus(), np.random.default_rng(0)
    counter = Counter("decisions", "by reason", ["reason"], registry=CollectorRegistry())
    actor = Actor(bus, lambda: at(now[0]), counter)  # type: ignore[arg-type]
    settings = SchedulerSettings()
    panel = Panel({name: policy_maker(name) for name in settings.panel}, 10.0)
    decider = PoolDecider(actor, panel, Governor(), Championship(settings.policy_name, settings.fallback_policy))
    caps = DeviceDecider(actor, 60.0)
    policy = FleetPolicy(power="all", budgets=[PowerBudget(watts=260.0 * len(names))])
    alone = Panel({settings.policy_name: policy_maker(settings.policy_name)}, 10.0)
    took: list[float] = []
    baseline: list[float] = []
    for step in range(rounds):
        now[0] = step * 10.0
        seen = observe(pools, names, now[0], random)
        began = time.perf_counter()
        await decider.decide(seen, {}, policy, 1)
        wanted = levels_by_device(seen, decider.levels)
        await caps.cap(fleet, caps_now, wanted, policy, 1)
        took.append(time.perf_counter() - began)
        for name, (cap_w, _) in caps._kept.ours().items():
            caps_now[name] = cap_w
        began = time.perf_counter()
        alone.propose(seen)
        baseline.append(time.perf_counter() - began)
    # The first rounds set every cap once; what follows is the steady work.
    steady = took[3:]
    return {
        "p50_ms": round(1000 * float(np.median(steady)), 1),
        "max_ms": round(1000 * max(steady), 1),
        "first_ms": round(1000 * took[0], 1),
        "baseline_ms": round(1000 * float(np.median(baseline[3:])), 1),
        "sent": bus.sent,
    }


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--short", action="store_true")
    a = ask.parse_args()
    pools = 100 if a.short else 1000
    told = asyncio.run(measure(pools, 100, 8 if a.short else 20))
    value, baseline = told["p50_ms"], told["baseline_ms"]
    print(
        json.dumps(
            {
                "name": "decide", "value": value, "unit": "ms", "baseline": baseline,
                "ratio": round(value / max(baseline, 1e-9), 2), "pools": pools, "devices": pools * 100, **told,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
