"""Track each pool's recent demand, arrivals, and job durations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles, PoolFacts, PoolObservations, relative_time
from accelerator_autopilot.scheduler.policies.forecasting import HORIZONS_MIN, MINUTE_S, MinuteForecasts
from accelerator_autopilot.scheduler.policies.sliding_window import LastValues
from accelerator_autopilot.scheduler.policies.startup_readiness import StartupLatency
from accelerator_autopilot.scheduler.policies.whatif_sizing import WhatIfSizing

WINDOWS_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0)
WORK_MEMORY = 0.1
LATE_MEMORY_S = 3600.0


@dataclass(frozen=True)
class Demand:
    """Demand of each pool; [P] or [P, W], W for WINDOWS_S."""

    work_s: Doubles  # [P] mean work of a job at full power
    now: Doubles  # [P] replicas that would finish the current jobs in time
    offered: Doubles  # [P] replicas for the arriving work, smoothed over the time that it may take
    peak: Doubles  # [P, W] the maximum of `offered` in each window
    peak_now: Doubles  # [P, W] the maximum of `now`
    rate: Doubles  # [P, W] arrivals per second
    forecast: Doubles  # [P, 2H] arrivals per second, the mean and the 90th percentile, for each horizon
    quiet_s: Doubles  # [P] since the last arrival, at most the longest window
    started: Doubles  # [P] jobs since the previous observation
    late: Doubles  # [P] late ones among them, estimated
    late_share: Doubles  # [P] estimated, of recent jobs
    prompt: Doubles  # [P] share of starts that are ready by the next observation
    enough: Doubles  # [P] replicas that would have been sufficient, in hindsight
    doubt: Doubles  # [P] how little is known of the past: 1 at first, then decreasing


class DemandHistory:
    """Ring buffers over the longest window. Called once per decision, in order."""

    def __init__(self, facts: PoolFacts, hindsight: WhatIfSizing) -> None:
        p = len(facts)
        self.facts = facts
        self.period_s = float(facts.interval_s[0])
        ends = np.maximum(1, np.round(np.array(WINDOWS_S) / self.period_s)).astype(np.int64)
        # Windows shorter than a period all refer to the newest slot.
        self._starts = np.minimum(np.concatenate([[0], ends[:-1]]), ends - 1)
        self._ends = ends
        # Some of these windows coincide, and a sum must not count one twice.
        self._parts, self._part_of = np.unique(ends, return_inverse=True)
        self._part_starts = np.concatenate([[0], self._parts[:-1]])
        most = int(ends[-1])
        self._offered, self._demand, self._arrived = LastValues(p, most), LastValues(p, most), LastValues(p, most)
        self._longest = most
        self._smooth = np.zeros(p)
        self._slots = np.zeros(p)
        self._work_s = np.full(p, np.nan)
        self._quiet_s = np.zeros(p)
        self._depth = np.zeros(p)
        self._oldest_s = np.zeros(p)
        self._started = np.zeros(p)
        self._late = np.zeros(p)
        self._forecasts = MinuteForecasts(p)
        self._promptness, self._hindsight = StartupLatency(facts), hindsight

    def observe(self, seen: PoolObservations) -> Demand:
        """Process one observation."""
        facts = self.facts
        slow = relative_time(facts, seen.power_cap_w)
        self._learn_work(seen, slow)
        work_s = np.where(np.isnan(self._work_s), facts.slack_s, self._work_s)
        began, late = self._estimate_late(seen, slow, work_s)
        now = seen.busy + 1.0 * seen.queue_depth * np.minimum(1.0, work_s / facts.slack_s)
        share = 1.0 - np.exp(-facts.interval_s / (facts.slack_s + work_s))
        asked = seen.arrivals * work_s / facts.interval_s
        self._smooth = offered = self._smooth + share * (asked - self._smooth)
        self._slots = np.minimum(self._slots + 1, self._longest)
        self._quiet_s = np.where(seen.arrivals > 0, 0.0, np.minimum(self._quiet_s + self.period_s, WINDOWS_S[-1]))
        peak, peak_now = (
            np.maximum.accumulate(np.maximum.reduceat(last, self._starts, axis=0), axis=0).T
            for last in (self._offered.push(offered), self._demand.push(now))
        )
        parts = np.add.reduceat(self._arrived.push(seen.arrivals.astype(float)), self._part_starts, axis=0)
        sums = np.cumsum(parts, axis=0)[self._part_of].T
        lasted_s = np.minimum(self._ends, self._slots[:, None]) * self.period_s
        prompt = self._promptness.observe(seen)
        enough = self._hindsight.observe(seen, work_s, prompt, self._quiet_s)
        return Demand(
            work_s=work_s,
            now=now,
            offered=offered,
            peak=peak,
            peak_now=peak_now,
            rate=sums / lasted_s,
            forecast=self._forecast(seen, sums / lasted_s),
            quiet_s=self._quiet_s.copy(),
            started=began,
            late=late,
            late_share=self._late / np.maximum(self._started, 1.0),
            prompt=prompt,
            enough=enough,
            doubt=self._hindsight.doubt,
        )

    def _forecast(self, seen: PoolObservations, rate: Doubles) -> Doubles:
        forecast = self._forecasts.observe(seen.arrivals, self.period_s)
        if forecast is None:
            return np.repeat(rate[:, :1], 2 * len(HORIZONS_MIN), axis=1)
        return np.stack([forecast.mean, forecast.high], axis=2).reshape(len(rate), -1) / MINUTE_S

    def _learn_work(self, seen: PoolObservations, slow: Doubles) -> None:
        known = seen.completions > 0
        fresh = np.where(known, seen.mean_service_s / slow, 0.0)
        old = np.where(np.isnan(self._work_s), fresh, self._work_s)
        weight = WORK_MEMORY * np.minimum(1.0, seen.completions / 3.0)
        self._work_s = np.where(known, old + weight * (fresh - old), self._work_s)

    def _estimate_late(self, seen: PoolObservations, slow: Doubles, work_s: Doubles) -> tuple[Doubles, Doubles]:
        """Estimate late jobs from the queue's head before and now: jobs started between waited a time in between."""
        started = np.maximum(self._depth + seen.arrivals - seen.queue_depth, 0.0)
        longest = self._oldest_s + np.where(self._depth > 0, self.period_s / 2, 0.0)
        shortest = np.where(seen.queue_depth > 0, seen.oldest_wait_s, 0.0)
        low, high = np.minimum(longest, shortest), np.maximum(longest, shortest)
        allowed = self.facts.slack_s - (slow - 1.0) * work_s
        share = np.clip((high - allowed) / np.maximum(high - low, 1e-9), 0.0, 1.0)
        fade = 0.5 ** (self.period_s / LATE_MEMORY_S)
        self._late = self._late * fade + started * share
        self._started = self._started * fade + started
        self._depth, self._oldest_s = seen.queue_depth.astype(float), seen.oldest_wait_s
        return started, started * share
