"""Map gains to actions: how much to reserve, how strongly to react, how long to batch.

Where models load well within the slack, a share of recent peaks is reserved and the queue is answered; where they do
not, what would have been sufficient in hindsight is reserved, and many replicas are started at once. All-zero gains are
a plain rule that is usable by itself, so that training starts from something sensible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import (
    Action,
    Doubles,
    PoolFacts,
    PoolObservations,
    relative_time,
)
from accelerator_autopilot.scheduler.policies.demand import Demand
from accelerator_autopilot.scheduler.policies.scale_up_rule import ScaleUpRule

OUTPUTS = ("hold", "react", "drain", "power", "patience", "spare", "base", "company")
HOLD, REACT, DRAIN = 0.5, 1.0, 1.0
BASE = 0.1  # share of the operator's size
BATCH_WAIT, MAX_BATCH_WAIT = 0.1, 0.4  # share of the slack that a job may wait for a fuller batch
PATIENCE_LOADS = 4.0  # load times without an arrival after which less is reserved
IDLE_AFTER_S = 600.0  # without an arrival nothing is reserved
HELD_WINDOW = 5  # index in WINDOWS_S: 600 s
FULL_POWER_WAIT, FULL_POWER_DRAIN = 0.5, 0.7  # share of the slack


@dataclass(frozen=True)
class PolicyParameters:
    """What a rule with its gains requests, [P] each."""

    replicas: Doubles  # not rounded yet
    power: Doubles  # 0: the cheapest cap; 1: full power
    batch_delay_s: Doubles


def proposed(
    facts: PoolFacts, seen: PoolObservations, demand: Demand, output: NDArray[np.floating]
) -> PolicyParameters:
    """Return what the rule requests with `output` [P, len(OUTPUTS)], each between -3 and 3."""
    out = np.clip(output.astype(float), -3.0, 3.0)
    short = shortness(facts)
    wanted = (1.0 - short) * _long_slack(facts, seen, demand, out) + short * _short_slack(facts, seen, demand, out)
    late = urgency(facts, seen, demand)
    batch_wait_s = np.minimum(BATCH_WAIT * np.exp(out[:, 7]), MAX_BATCH_WAIT) * facts.slack_s
    return PolicyParameters(
        replicas=wanted,
        power=np.clip(late + out[:, 3], 0.0, 1.0),
        batch_delay_s=np.where((facts.slots > 1) & (late == 0), batch_wait_s, 0.0),
    )


def corrected(facts: PoolFacts, rule: Doubles, output: NDArray[np.floating]) -> Doubles:
    """Return the rule's gains plus a network's corrections, which are zero where the slack is short.

    Networks that were also trained on pools with short slack traded lateness in bursts for energy.
    """
    say: Doubles = rule + output * (1.0 - shortness(facts))[:, None]
    return say


def shortness(facts: PoolFacts) -> Doubles:
    """Return [P] 0 where the slack is much longer than the load time, 1 where it is much shorter."""
    short: Doubles = 1.0 / (1.0 + (facts.slack_s / facts.load_time_s) ** 16)
    return short


def patience_s(facts: PoolFacts, gain: Doubles) -> Doubles:
    """Return [P] the time without an arrival after which less is reserved."""
    patience: Doubles = PATIENCE_LOADS * np.exp(gain) * facts.load_time_s
    return patience


def reaction(out: Doubles) -> ScaleUpRule:
    """Return how gains [P, len(OUTPUTS)] react to work where the slack is short."""
    return ScaleUpRule(grow=np.exp(out[:, 1]), drain=np.exp(out[:, 2]), spare=out[:, 5])


def _long_slack(facts: PoolFacts, seen: PoolObservations, demand: Demand, out: Doubles) -> Doubles:
    fading = np.exp(out[:, 0] - demand.quiet_s / patience_s(facts, out[:, 4]))
    held = np.maximum(HOLD * fading * demand.peak[:, HELD_WINDOW], BASE * np.exp(out[:, 6]) * facts.max_replicas)
    held = np.where(demand.quiet_s < IDLE_AFTER_S, held, 0.0)
    arriving = REACT * np.exp(out[:, 1]) * demand.rate[:, 0] * demand.work_s
    waiting = seen.queue_depth * np.minimum(1.0, demand.work_s / facts.slack_s)
    wanted = np.maximum(np.maximum(held, arriving), seen.busy + DRAIN * np.exp(out[:, 2]) * waiting)
    # Load times vary: with extra starts the first are ready sooner, and the surplus is cancelled.
    missing = np.maximum(wanted - seen.ready, 0.0)
    more: Doubles = np.where(missing > 0, seen.ready + np.exp(np.maximum(out[:, 5], 0.0)) * missing, wanted)
    return more


def _short_slack(facts: PoolFacts, seen: PoolObservations, demand: Demand, out: Doubles) -> Doubles:
    # The operator's size counts while little is known of the pool's history.
    known = np.maximum(np.exp(out[:, 0]) * demand.enough, BASE * np.exp(out[:, 6]) * facts.max_replicas * demand.doubt)
    held = np.exp(-demand.quiet_s / patience_s(facts, out[:, 4])) * known
    held = np.where(demand.quiet_s < IDLE_AFTER_S, held, 0.0)
    work_s = demand.work_s * slowness(facts, out[:, 3])
    waiting_s, rate = seen.queue_depth * work_s, seen.arrivals * work_s / facts.interval_s
    wanted = reaction(out).wanted(facts, held, seen.ready.astype(float), waiting_s, rate, demand.prompt)
    return np.maximum(wanted, seen.busy)


def urgency(facts: PoolFacts, seen: PoolObservations, demand: Demand) -> Doubles:
    """Return 0, or 1 where jobs have waited for long or will."""
    waited = seen.oldest_wait_s / facts.slack_s
    to_drain = seen.queue_depth * demand.work_s / (facts.slack_s * np.maximum(seen.ready, 1))
    late: Doubles = np.where((waited > FULL_POWER_WAIT) | (to_drain > FULL_POWER_DRAIN), 1.0, 0.0)
    return late


def action(facts: PoolFacts, asked: PolicyParameters) -> Action:
    """Return whole replicas, and watts between the cheapest cap and full power."""
    replicas = np.clip(np.ceil(asked.replicas - 1e-6), 0, facts.max_replicas).astype(np.int64)
    return Action(replicas, cap_at(facts, asked.power), asked.batch_delay_s)


def cap_at(facts: PoolFacts, power: Doubles) -> Doubles:
    """Return [P] the watts at a power level between the cheapest cap (0) and full power (1)."""
    low, high = facts.cap_w[np.arange(len(facts)), facts.cheapest], facts.cap_w[:, -1]
    watts: Doubles = low + np.clip(power, 0.0, 1.0) * (high - low)
    return watts


def slowness(facts: PoolFacts, power: Doubles) -> Doubles:
    """Return [P] the relative job time while none is urgent, 1 at full power."""
    return relative_time(facts, cap_at(facts, power))
