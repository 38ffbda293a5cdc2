"""The steps of the tour: each does one thing, checks the result, and reports it in one line."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import TypeVar

import asyncpg

from accelerator_autopilot.cli.webhook_receiver import WebhookCatcher
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import FleetPolicy, PoolPolicy
from accelerator_autopilot.contracts.messages.telemetry import SimulationRequest
from accelerator_autopilot.deploy.local.instance import Runtime

T = TypeVar("T")
BURST = 300
CAP_W, LEASE_S = 150.0, 3.0


class StepError(Exception):
    """A step observed something unexpected."""


@dataclass
class Stage:
    """Shared state of the steps."""

    autopilot: AutopilotClient
    runtime: Runtime
    catcher: WebhookCatcher

    async def query(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database."""
        connection = await asyncpg.connect(self.runtime.database_url)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()


async def eventually(read: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], within_s: float, what: str) -> T:
    """Poll until the result is as wanted. Raises StepError with the last result."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        seen = await read()
        if wanted(seen):
            return seen
        if loop.time() > until:
            raise StepError(f"{what}: not within {within_s:g} s; last seen: {seen!r:.300}")
        await asyncio.sleep(0.1)


async def discover(stage: Stage) -> str:
    """Accelerators are discovered and sampled."""
    views = await eventually(
        stage.autopilot.fleet.devices,
        lambda v: bool(v) and all(d.sample for d in v),
        10,
        "devices with samples",
    )
    real = [v for v in views if not v.info.simulated]
    if not real:
        raise StepError("no real accelerator, not even the CPU, was found")
    rows = await eventually(
        lambda: stage.query(
            "SELECT count(*) AS n FROM samples s JOIN devices d USING (device_id) WHERE NOT d.simulated"
        ),
        lambda r: r[0]["n"] >= 2,
        10,
        "rows of real devices",
    )
    frames = (await stage.autopilot.js.stream_info("TELEMETRY")).state.messages
    first = real[0]
    return (
        f"{first.info.model} via {first.info.source} at {first.sample['gpu_util_pct']:.0f} %, "
        f"{len(views) - len(real)} simulated; {frames} frames in the stream, {rows[0]['n']} rows of real devices"
    )


async def summarise(stage: Stage) -> str:
    """A text is summarised and embedded with the real MiniLM model."""
    text = _document()
    summary = await stage.autopilot.jobs.submit("summarize", {"text": text, "max_sentences": 2})
    embedding = await stage.autopilot.jobs.submit("embed", {"texts": [text[:1000], "an unrelated line about cooking"]})
    short = await stage.autopilot.jobs.output(summary.id, 60)
    vectors = await stage.autopilot.jobs.output(embedding.id, 60)
    if not 0 < len(short["summary"]) < len(text) or any(s not in " ".join(text.split()) for s in short["sentences"]):
        raise StepError("the summary is not made of the text's sentences")
    norm = sum(x * x for x in vectors["vectors"][0])
    if vectors["dimensions"] != 384 or abs(norm - 1) > 1e-3:
        raise StepError(f"not a MiniLM vector: {vectors['dimensions']} dimensions, norm {norm:.3f}")
    return (
        f"{len(text)} characters to {len(short['summary'])}, vectors of {vectors['dimensions']} by {vectors['model']}"
    )


async def burst(stage: Stage) -> str:
    """A burst of jobs scales the pool up and down."""
    autopilot = stage.autopilot
    bounds = PoolPolicy(floor=1, ceiling=4, scale_down_after_s=2, step_down=4, target_wait_s=10)
    await autopilot.steering.set_policy(FleetPolicy(pools={"default": bounds}, cap_fraction=None))
    jobs = [autopilot.jobs.submit("echo", {"text": str(i), "work_s": 0.1}) for i in range(BURST)]
    handles = await asyncio.gather(*jobs)
    deepest = most = 0

    async def read() -> int:
        nonlocal deepest, most
        depth = await autopilot.fleet.queue_depth()
        deepest = max(deepest, depth)
        pool = (await autopilot.fleet.pools())[0]
        most = max(most, sum(w.state == "ready" for w in pool.workers))
        return depth

    await eventually(read, lambda depth: depth == 0, 40, "the queue empty")
    results = [await autopilot.jobs.find_result(h.id) for h in handles]
    if any(r is None or r.status != "succeeded" for r in results):
        raise StepError("a job has no result")
    if most < 2:
        raise StepError(f"the pool never grew: at most {most} ready worker")
    pools = await eventually(
        autopilot.fleet.pools,
        lambda p: p[0].desired == 1 and len(p[0].workers) == 1,
        25,
        "the pool small again",
    )
    stored = await stage.query(
        "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM jobs WHERE kind = 'echo' AND status = 'succeeded'"
    )
    return (
        f"{BURST} jobs, queue up to {deepest}, workers 1 to {most} to {pools[0].desired}, "
        f"{len({h.id for h in handles})} results, {stored[0]['ids']} in the database so far"
    )


async def cap(stage: Stage) -> str:
    """A power cap on a simulated GPU expires by itself."""
    autopilot = stage.autopilot
    view = next(v for v in await autopilot.fleet.devices() if v.info.simulated and v.info.can_cap)
    node, device = view.node, view.info.device
    await autopilot.steering.simulate(node, SimulationRequest(device=device, util=1.0))
    before = await _power(stage, device, lambda w: w > CAP_W + 20)
    command = await autopilot.steering.cap_power(node, device, CAP_W, lease_s=LEASE_S, reason="tour")
    outcome = await autopilot.steering.outcome(command.id)
    if outcome.status != "applied" or outcome.read_back != CAP_W:
        raise StepError(f"outcome {outcome.status}, read back {outcome.read_back}")
    during = await _power(stage, device, lambda w: w < CAP_W + 5)
    ended = await eventually(
        lambda: autopilot.steering.outcome(command.id),
        lambda o: o.status == "expired",
        LEASE_S + 5,
        "the lease's end",
    )
    after = await _power(stage, device, lambda w: w > CAP_W + 20)
    await autopilot.steering.simulate(node, SimulationRequest(device=device, fault="none", util=0.0))
    return (
        f"{device} drew {before:.0f} W, capped at {outcome.read_back:g} W drew {during:.0f} W, "
        f"back at {ended.read_back:g} W by itself drew {after:.0f} W"
    )


async def _power(stage: Stage, device: str, wanted: Callable[[float], bool]) -> float:
    async def read() -> float:
        return (await stage.autopilot.fleet.find(device)).sample.get("power_w", 0.0)

    return await eventually(read, wanted, 8, f"power of {device}")


async def fault(stage: Stage) -> str:
    """A fault leads to an alert, a webhook, a drain and a recovery."""
    autopilot = stage.autopilot
    subscription = await autopilot.alerts.subscribe(stage.catcher.url, severities=["critical"])
    views = [v for v in await autopilot.fleet.devices() if v.info.simulated]
    victim = views[-1]
    node, device = victim.node, victim.info.device
    await autopilot.steering.simulate(node, SimulationRequest(device=device, util=1.0, fault="thermal_runaway"))
    hot = await _alert(stage, device, "thermal", "opened")
    if not hot.evidence or (hot.evidence[0].value or 0) < 80:
        raise StepError(f"the alert has no evidence: {hot.evidence}")
    await _cordoned(stage, device, wanted=True)
    await autopilot.steering.simulate(node, SimulationRequest(device=device, xid=79))
    await _alert(stage, device, "xid_79", "opened")
    await _alert(stage, device, "device_lost", "opened")
    await _delivered(stage, subscription.secret, {"thermal", "xid_79"})
    await autopilot.steering.simulate(node, SimulationRequest(device=device, fault="none", util=0.0))
    await _alert(stage, device, "thermal", "resolved")
    # Quiet does not resolve an XID 79: somebody has to confirm that the device is well again.
    await autopilot.steering.drain(node, device, "restore")
    await _alert(stage, device, "xid_79", "resolved")
    await _healthy(stage, device)
    await _cordoned(stage, device, wanted=False)
    return (
        f"{device} at {hot.evidence[0].value:.0f} °C ({hot.evidence[0].expected}), then XID 79; drained, "
        f"{len(stage.catcher.caught)} signed webhooks, resolved, restored"
    )


async def _alert(stage: Stage, device: str, kind: str, state: str) -> Alert:
    async def read() -> list[Alert]:
        history = await stage.autopilot.alerts.history(100)
        return [a for a in history if (a.device, a.kind, a.state) == (device, kind, state)]

    return (await eventually(read, bool, 30, f"alert {kind} {state}"))[-1]


async def _healthy(stage: Stage, device: str) -> None:
    async def read() -> list[str]:
        return [a.kind for a in await stage.autopilot.alerts.open() if a.device == device and a.severity == "critical"]

    # An alert that recurred must stay clear for longer before it is resolved.
    await eventually(read, lambda kinds: not kinds, 60, f"no critical alert of {device}")


async def _cordoned(stage: Stage, device: str, *, wanted: bool) -> None:
    async def read() -> list[str]:
        pools = await stage.autopilot.fleet.pools()
        on_it = [w.worker for p in pools for w in p.workers if w.device == device]
        return [d for p in pools for d in p.cordoned if d == device] + (on_it if wanted else [])

    goal = [device] if wanted else []
    await eventually(read, lambda seen: seen == goal, 20, f"{device} {'drained' if wanted else 'back'}")


async def _delivered(stage: Stage, secret: str, kinds: set[str]) -> None:
    async def read() -> set[str]:
        bodies = [c.verified(secret) for c in stage.catcher.caught]
        if None in bodies:
            raise StepError("a webhook came with a bad signature")
        return {b["data"]["kind"] for b in bodies if b}

    await eventually(read, lambda seen: kinds <= seen, 10, "signed webhooks")


async def kill(stage: Stage) -> str:
    """A worker is killed in the middle of a job."""
    autopilot = stage.autopilot
    handle = await autopilot.jobs.submit("echo", {"text": "survives", "work_s": 1.5})

    async def read() -> list[tuple[int, str]]:
        pools = await autopilot.fleet.pools()
        return [(w.pid, w.worker) for p in pools for w in p.workers if handle.id in w.running]

    pid, worker = (await eventually(read, bool, 10, "the job running"))[0]
    os.kill(pid, signal.SIGKILL)
    result = await autopilot.jobs.wait(handle.id, 40)
    if result.status != "succeeded" or result.output != {"text": "survives"} or result.worker == worker:
        raise StepError(f"job {result.status} on {result.worker}")
    return f"{worker} (pid {pid}) died, {result.worker} finished the job: one result"


async def count(stage: Stage) -> str:
    """The database contains everything."""
    expected = BURST + 3

    async def read() -> dict[str, int]:
        tables = ("samples", "devices", "events", "alerts", "commands", "outcomes", "jobs", "audit")
        sql = " UNION ALL ".join(f"SELECT '{t}' AS name, count(*) AS n FROM {t}" for t in tables)  # noqa: S608  our names
        return {row["name"]: row["n"] for row in await stage.query(sql)}

    counts = await eventually(
        read, lambda c: c["jobs"] == expected and all(c.values()), 10, f"{expected} jobs and no empty table"
    )
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _document() -> str:
    """Return a text file of the repository where there is one, else the package's description."""
    readme = Path(__file__).resolve().parents[2] / "README.md"
    if readme.exists():
        return readme.read_text(encoding="utf-8")
    return str(metadata("accelerator-autopilot")["Description"])


STEPS: tuple[Callable[[Stage], Awaitable[str]], ...] = (discover, summarise, burst, cap, fault, kill, count)
