"""One round of the scheduler for a fleet of 1,000 pools and 100,000 devices on one core, with a real nats-server.

    python -m tests.benchmarks.decide [--short] [--sync always]

In each round all nodes send a frame, all pools tell their status, a tenth of the pools changes its size, and a
hundredth of the nodes tells its inventory anew (`decide_fleet`). A round is measured from the last frame received until
the last command was confirmed by the server: frames, buckets and queues are read, every policy looks at every pool,
pools and caps are commanded. `value` is the median by the clock. `cpu_ms` is what a round took of the core that this
process has for itself, `phases_ms` where, `receiving_cpu_ms` what nats-py took to receive the frames before.
`blocked_ms` is the longest time in any round for which the event loop served nobody, by the clock; `blocked_cpu_ms` the
same in the loop's own work, which on a busy machine is the one to look at. The first rounds, which read the whole
fleet, have theirs apart. The baseline is how readings were taken before: a dictionary of every metric of every device,
four times a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PowerBudget
from accelerator_autopilot.runtime.broker import client_of, expect_close, make_broker
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.adapters.observation_reader import READ_METRICS, FleetReader
from accelerator_autopilot.scheduler.app import freeze_gc
from accelerator_autopilot.scheduler.application.autonomy_gate import AutonomyGate
from accelerator_autopilot.scheduler.application.control_loop import ControlLoop
from accelerator_autopilot.scheduler.application.device_controller import DeviceController
from accelerator_autopilot.scheduler.application.pool_controller import PoolController
from accelerator_autopilot.scheduler.domain.champion_challenger import ChampionChallenger
from accelerator_autopilot.scheduler.domain.governor import Governor
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings
from accelerator_autopilot.scheduler.policies.builtin import policy_maker
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from accelerator_autopilot.scheduler.settings import SchedulerSettings
from accelerator_autopilot.transport.clock import utc_now
from tests.benchmarks.decide_fleet import BOUNDS, POOL_DEVICES, ROUND, Fleet, be_fleet
from tests.support.broker import bench_broker

WARM_UP = 4
PERIOD_S = 2.0
BASELINE_NODES = 250
ROUND_WITHIN_S = 120.0
CHECK_INTERVAL_S = 0.005  # more often would itself be a good part of a round


class LoopWatch:
    """The longest time for which the event loop served nobody."""

    def __init__(self) -> None:
        self.longest_s = 0.0  # of the clock, which on a busy machine runs while others work
        self.longest_cpu_s = 0.0  # of this thread's own work

    async def run(self) -> None:
        """Until cancelled."""
        before, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            now, cpu_now = time.perf_counter(), time.thread_time()
            self.longest_s = max(self.longest_s, now - before - CHECK_INTERVAL_S)
            self.longest_cpu_s = max(self.longest_cpu_s, cpu_now - cpu)
            before, cpu = now, cpu_now

    def again(self) -> None:
        """From now on."""
        self.longest_s = self.longest_cpu_s = 0.0


@dataclass
class Phases:
    """CPU seconds of this process within some methods; a method within another counts for both."""

    took_s: dict[str, float] = field(default_factory=dict)

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time this method from now on."""
        work: Callable[..., Any] = getattr(owner, method)

        if asyncio.iscoroutinefunction(work):

            @wraps(work)
            async def timed(*args: Any, **more: Any) -> Any:
                began = time.process_time()
                try:
                    return await work(*args, **more)
                finally:
                    self._add(name, began)
        else:

            @wraps(work)
            def timed(*args: Any, **more: Any) -> Any:
                began = time.process_time()
                try:
                    return work(*args, **more)
                finally:
                    self._add(name, began)

        setattr(owner, method, timed)

    def _add(self, name: str, began: float) -> None:
        self.took_s[name] = self.took_s.get(name, 0.0) + time.process_time() - began

    def of_round(self) -> dict[str, float]:
        """Milliseconds since asked last, each phase without those within it."""
        took, self.took_s = {name: 1e3 * took_s for name, took_s in self.took_s.items()}, {}
        took["queues"] = took.pop("refresh", 0.0) - took.get("frames", 0.0)
        took["judged_and_sent"] = took.pop("pool_decisions", 0.0) - took.get("policies", 0.0)
        return took


def make_decider(bus: Bus, reader: FleetReader, phases: Phases) -> ControlLoop:
    """As the service makes it."""
    counter = Counter("decisions", "by reason", ["reason"], registry=CollectorRegistry())
    actor = AutonomyGate(bus, utc_now, counter)
    settings = SchedulerSettings()
    runner = ShadowPolicies({name: policy_maker(name) for name in settings.policy_names}, settings.decision_interval_s)
    champion_challenger = ChampionChallenger(settings.policy_name, settings.fallback_policy)
    pools, devices = PoolController(actor, runner, Governor(), champion_challenger), DeviceController(actor, 60.0)
    decider = ControlLoop(reader, pools, devices)
    for owner, method, name in (
        (bus, "policy", "policy"), (reader, "devices", "inventory"), (reader, "refresh", "refresh"),
        (reader.frames, "read", "frames"), (reader, "pools", "statuses"), (decider, "_observe", "observed"),
        (runner, "propose", "policies"), (pools, "decide", "pool_decisions"), (reader, "critical", "alerts"),
        (devices, "drain", "drains"), (devices, "cap", "caps"),
    ):  # fmt: skip
        phases.watch(owner, method, name)
    return decider


def baseline_s(pools: int) -> float:
    """Seconds of CPU for the readings of one round as they were taken before, from those of some nodes."""
    random, fleet = np.random.default_rng(0), Fleet(pools)
    some = min(BASELINE_NODES, fleet.nodes)
    frames = [decode(fleet.frame(node, random)) for node in range(some)]
    began = time.process_time()
    for _ in range(4):
        {
            (frame.node, name): sample["power_w"]
            for frame in frames
            for name, sample in frame.latest().items()
            if "power_w" in sample
        }
    return (time.process_time() - began) * fleet.nodes / some


async def measure(pools: int, rounds: int, environment: Mapping[str, str], nc: Client) -> list[dict[str, Any]]:
    """Rounds against a fleet in another process; the first ones are of a fleet that is not known yet."""
    settings = SchedulerSettings(nats_url=environment["AUTOPILOT_NATS_URL"], nats_user="bench", nats_password="bench")
    broker = make_broker(settings, "bench", CollectorRegistry())
    await broker.start()
    bus = Bus(broker, pipelined=True)
    frames = LatestFrames(
        LatestReadings(READ_METRICS), lambda: utc_now().timestamp(), settings.stale_after_s, CollectorRegistry()
    )
    phases, watch, received, scaled = Phases(), LoopWatch(), [0], [0]
    decider = make_decider(bus, FleetReader(bus.js, settings.stale_after_s, frames), phases)
    watching = asyncio.create_task(watch.run())

    async def take(message: Msg) -> None:
        received[0] += 1
        await frames.take(message)

    async def note_scale(_: Msg) -> None:
        scaled[0] += 1

    await client_of(broker).subscribe(subjects.FRAMES, cb=take)
    await nc.subscribe(subjects.SCALE_COMMANDS, cb=note_scale)
    nodes = Fleet(pools).nodes
    budget = PowerBudget(watts=260.0 * pools * POOL_DEVICES)
    await bus.write(
        "policy", "fleet", FleetPolicy(power="all", budgets=[budget], pools={f"p{i}": BOUNDS for i in range(pools)})
    )
    freeze_gc()
    told: list[dict[str, Any]] = []
    for number in range(WARM_UP + rounds):
        received[0], scaled[0], before = 0, 0, (await bus.js.stream_info("COMMANDS")).state.last_seq
        asked, cpu = time.perf_counter(), time.process_time()
        answer = asyncio.create_task(nc.request(ROUND, b"", timeout=ROUND_WITHIN_S))
        while received[0] < nodes:
            await asyncio.sleep(0.001)
            if time.perf_counter() - asked > ROUND_WITHIN_S:
                raise TimeoutError(f"round {number}: {received[0]} of {nodes} frames came in {ROUND_WITHIN_S:g} s")
        await answer
        receiving_cpu = time.process_time() - cpu
        watch.again()
        phases.of_round()
        began, cpu = time.perf_counter(), time.process_time()
        await decider.decide(1)
        took = {
            "wall_ms": 1e3 * (time.perf_counter() - began),
            "cpu_ms": 1e3 * (time.process_time() - cpu),
            "receiving_cpu_ms": 1e3 * receiving_cpu,
            "blocked_ms": 1e3 * watch.longest_s,
            "blocked_cpu_ms": 1e3 * watch.longest_cpu_s,
        }
        if number == 0:
            freeze_gc()
        took["commands"] = (await bus.js.stream_info("COMMANDS")).state.last_seq - before
        took["scale_commands"] = scaled[0]
        told.append(took | {"phases": phases.of_round()})
        print(f"# round {number}", {k: round(v, 1) for k, v in took.items()}, file=sys.stderr)
        await asyncio.sleep(max(0.0, asked + PERIOD_S - time.perf_counter()))
    watching.cancel()
    expect_close()
    await broker.stop()
    return told


def summary(told: list[dict[str, Any]], before_s: float) -> dict[str, Any]:
    """What the rounds say together."""
    first, steady = told[:WARM_UP], told[WARM_UP:]

    def quantile(name: str, share: float) -> float:
        return round(float(np.quantile([each[name] for each in steady], share)), 1)

    def most(name: str, rounds: list[dict[str, Any]]) -> float:
        return round(max(each[name] for each in rounds), 1)

    phases = {
        name: round(float(np.median([each["phases"].get(name, 0.0) for each in steady])), 1)
        for name in steady[0]["phases"]
    }
    return {
        "value": quantile("wall_ms", 0.5), "baseline": round(1e3 * before_s, 1),
        "ratio": round(quantile("wall_ms", 0.5) / 1e3 / before_s, 3),
        "p95_ms": quantile("wall_ms", 0.95), "max_ms": most("wall_ms", steady),
        "cpu_ms": quantile("cpu_ms", 0.5), "cpu_p95_ms": quantile("cpu_ms", 0.95), "cpu_max_ms": most("cpu_ms", steady),
        "receiving_cpu_ms": quantile("receiving_cpu_ms", 0.5),
        "blocked_ms": most("blocked_ms", steady), "blocked_cpu_ms": most("blocked_cpu_ms", steady),
        "first_ms": most("wall_ms", first), "first_blocked_ms": most("blocked_ms", first),
        "first_blocked_cpu_ms": most("blocked_cpu_ms", first),
        "scale_commands": quantile("scale_commands", 0.5), "commands": quantile("commands", 0.5),
        "commands_max": most("commands", steady),
        "rounds": len(steady), "load": round(os.getloadavg()[0], 1), "phases_ms": phases,
    }  # fmt: skip


async def run(pools: int, rounds: int, sync: str) -> dict[str, Any]:
    """A broker, a fleet, and rounds. Where there are several cores, this process has one for itself."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:])  # of the broker and the fleet, which are started next
    with tempfile.TemporaryDirectory(prefix="autopilot-bench-", ignore_cleanup_errors=True) as name:
        async with bench_broker(Path(name), sync) as broker:
            url = broker.environment["AUTOPILOT_NATS_URL"].replace("//", "//bench:bench@")
            command = [sys.executable, "-m", "tests.benchmarks.decide", "--fleet", url, "--pools", str(pools)]
            fleet = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            try:
                if fleet.stdout is None or b"ready" not in await fleet.stdout.readline():
                    raise RuntimeError("the fleet did not start")
                os.sched_setaffinity(0, cores[:1])
                told = await measure(pools, rounds, broker.environment, broker.nc)
            finally:
                fleet.kill()
                await fleet.wait()
    named = {"name": "decide", "unit": "ms", "sync": sync, "pools": pools, "devices": pools * POOL_DEVICES}
    return named | summary(told, baseline_s(pools))


def main() -> None:
    """Run it."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--short", action="store_true")
    ask.add_argument("--sync", default="2m", help="how often the server syncs its disk; always: at every command")
    ask.add_argument("--fleet", help=argparse.SUPPRESS)
    ask.add_argument("--pools", type=int, default=1000)
    ask.add_argument("--rounds", type=int, default=20)
    arguments = ask.parse_args()
    if arguments.fleet:
        asyncio.run(be_fleet(arguments.fleet, arguments.pools))
        return
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        # As the service has it; it counts only before numpy is imported.
        again = [sys.executable, "-m", "tests.benchmarks.decide", *sys.argv[1:]]
        os.execve(sys.executable, again, os.environ | {"OPENBLAS_NUM_THREADS": "1"})  # noqa: S606
    pools, rounds = (100, 4) if arguments.short else (arguments.pools, arguments.rounds)
    print(json.dumps(asyncio.run(run(pools, rounds, arguments.sync))))


if __name__ == "__main__":
    main()
