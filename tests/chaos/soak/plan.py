"""Which faults, in which order: each kind on each process and link. Pure: chance is handed in."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from tests.chaos.soak.processes import NAMES

FaultKind = Literal["kill", "stop", "freeze", "slow", "cut", "stall", "throttle", "full"]
NATS_LINKS = ("agent", "recorder", "anomaly", "scheduler", "notifier", "gateway", "pool", "worker")
OTHER_LINKS = ("recorder-postgres", "scheduler-postgres", "notifier-receiver")
STREAMS = ("JOBS", "RESULTS", "TELEMETRY", "EVENTS", "ALERTS", "OUTCOMES", "DEAD", "AUDIT")
DISKS = ("nats", "postgres", "data")
HOLD_S: dict[FaultKind, float] = {
    "kill": 0.0, "stop": 0.0, "freeze": 30.0, "slow": 10.0, "cut": 8.0, "stall": 8.0, "throttle": 10.0, "full": 8.0,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One fault: what is done to what, and for how long."""

    kind: FaultKind
    target: str
    hold_s: float

    @property
    def restarts(self) -> bool:
        """Whether the process begins anew, with fresh memory."""
        return self.kind in {"kill", "stop", "freeze"} or (self.kind == "full" and self.target in DISKS)


def every_fault() -> list[Fault]:
    """Each kind on each process and each link, and each stream and disk full."""
    faults = [(kind, name) for kind in ("kill", "stop", "freeze", "slow") for name in NAMES]
    links = [f"{name}-nats" for name in NATS_LINKS] + list(OTHER_LINKS)
    faults += [(kind, link) for kind in ("cut", "stall", "throttle") for link in links]
    faults += [("full", name) for name in (*STREAMS, *(f"disk of {disk}" for disk in DISKS))]
    return [Fault(kind, target, HOLD_S[kind]) for kind, target in faults]  # type: ignore[index]


def long_plan(dice: random.Random) -> list[Fault]:
    """All of them at random, first those that leave every process as it is: memory is compared with minute five."""
    faults = every_fault()
    dice.shuffle(faults)
    return sorted(faults, key=lambda fault: fault.restarts or fault.kind == "full")


SHORT_PLAN = (
    Fault("cut", "agent-nats", 2.0),
    Fault("stall", "recorder-postgres", 2.0),
    Fault("cut", "notifier-receiver", 2.0),
    Fault("full", "JOBS", 2.0),
    Fault("full", "RESULTS", 2.0),
    Fault("freeze", "worker", 4.0),
    Fault("kill", "recorder", 0.0),
    Fault("slow", "gateway", 2.0),
    Fault("kill", "nats", 0.0),
)
