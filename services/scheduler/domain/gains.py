"""From the network's numbers to replicas, watts and batches: what to hold, how hard to react, how long to gather.

Zeros give a plain rule that is already usable, so that training starts from something sensible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.scheduler.domain.demand import Demand
from services.scheduler.domain.pool import Action, Doubles, PoolFacts, Seen

OUTPUTS = ("hold", "react", "drain", "power", "patience", "spare", "base", "company")
HOLD, REACT, DRAIN = 0.5, 1.0, 1.0
BASE = 0.1  # of what the operator sized the pool for
COMPANY, MOST_COMPANY = 0.1, 0.4  # of the slack that a job may wait for others in its batch
PATIENCE_LOADS = 4.0  # load times without an arrival after which less is held
IDLE_AFTER_S = 600.0  # without an arrival nothing is held
HELD_WINDOW = 5  # of WINDOWS_S: 600 s
FULL_POWER_WAIT, FULL_POWER_DRAIN = 0.5, 0.7  # of the slack


@dataclass(frozen=True)
class Proposed:
    """What a rule with its gains asks for, [P] each."""

    replicas: Doubles  # not yet whole
    power: Doubles  # 0: the cheapest cap; 1: full power
    batch_delay_s: Doubles


def proposed(facts: PoolFacts, seen: Seen, demand: Demand, output: NDArray[np.floating]) -> Proposed:
    """What the rule asks for with `output` [P, len(OUTPUTS)], each between -3 and 3."""
    out = np.clip(output.astype(float), -3.0, 3.0)
    patience_s = PATIENCE_LOADS * np.exp(out[:, 4]) * facts.load_time_s
    held = HOLD * np.exp(out[:, 0] - demand.quiet_s / patience_s) * demand.peak[:, HELD_WINDOW]
    held = np.maximum(held, BASE * np.exp(out[:, 6]) * facts.max_replicas)
    held = np.where(demand.quiet_s < IDLE_AFTER_S, held, 0.0)
    arriving = REACT * np.exp(out[:, 1]) * demand.rate[:, 0] * demand.work_s
    waiting = seen.queue_depth * np.minimum(1.0, demand.work_s / facts.slack_s)
    wanted = np.maximum(np.maximum(held, arriving), seen.busy + DRAIN * np.exp(out[:, 2]) * waiting)
    # Load times differ: with some to spare the first are ready sooner, and the rest is called back.
    missing = np.maximum(wanted - seen.ready, 0.0)
    wanted = np.where(missing > 0, seen.ready + np.exp(np.maximum(out[:, 5], 0.0)) * missing, wanted)
    late = urgency(facts, seen, demand)
    company = np.minimum(COMPANY * np.exp(out[:, 7]), MOST_COMPANY) * facts.slack_s
    return Proposed(
        replicas=wanted,
        power=np.clip(late + out[:, 3], 0.0, 1.0),
        batch_delay_s=np.where((facts.slots > 1) & (late == 0), company, 0.0),
    )


def urgency(facts: PoolFacts, seen: Seen, demand: Demand) -> Doubles:
    """0, or 1 where jobs have waited long or will."""
    waited = seen.oldest_wait_s / facts.slack_s
    to_drain = seen.queue_depth * demand.work_s / (facts.slack_s * np.maximum(seen.ready, 1))
    late: Doubles = np.where((waited > FULL_POWER_WAIT) | (to_drain > FULL_POWER_DRAIN), 1.0, 0.0)
    return late


def action(facts: PoolFacts, asked: Proposed) -> Action:
    """Whole replicas, and watts between the cheapest cap and full power."""
    at = np.arange(len(facts))
    low, high = facts.cap_w[at, facts.cheapest], facts.cap_w[:, -1]
    replicas = np.clip(np.ceil(asked.replicas - 1e-6), 0, facts.max_replicas).astype(np.int64)
    return Action(replicas, low + asked.power * (high - low), asked.batch_delay_s)
