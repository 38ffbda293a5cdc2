"""What a fleet's history suggests to change, each with what it would save, and how certain that is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.domain.power_curves import PowerCurve, published

DAY_S = 86_400.0
RESAMPLES = 1000
IDLE_PCT, IDLE_SHARE = 5.0, 0.9
BUSY_PCT, WORTH_CAPPING = 50.0, 0.05
UNUSED_MEMORY = 0.5
MIN_MINUTES, MIN_JOBS = 30, 50
BATCH_WAIT_S, BATCHABLE_SHARE = 0.2, 0.3  # a job that could have been batched: another came this soon after it
MAX_SHARE = 0.9  # most of a pool on one kind of accelerator, so that a fault of that kind does not stop the pool


@dataclass(frozen=True)
class Advice:
    """One recommended change. `saving` is in the named unit, with its 90 % interval."""

    scope: str
    kind: str
    action: str
    saving: float
    low: float
    high: float
    unit: str
    why: str
    query: str
    command: str
    value: float | None = None  # the value to set, where it is a number


@dataclass(frozen=True)
class DeviceMinutes:
    """A device's minutes, [M] each; NaN where it did not report."""

    name: str
    util_pct: Doubles
    power_w: Doubles
    memory_used_bytes: Doubles
    memory_bytes: float
    curve: PowerCurve
    capped: bool


@dataclass(frozen=True)
class KindJobs:
    """Jobs of one kind on one pool in order of submission, [N] each."""

    pool: str
    kind: str
    submitted_s: Doubles
    wait_s: Doubles
    work_s: Doubles
    batch_size: Doubles
    energy_j: Doubles  # NaN: unknown
    accelerator: NDArray[np.str_]


def interval(
    values: Doubles, seed: int = 0, of: Callable[[Doubles], float] = lambda x: float(x.mean())
) -> tuple[float, float]:
    """Return the 90 % bootstrap interval of a statistic of [N] values."""
    random = np.random.default_rng(seed)
    picks = [of(values[random.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)]
    return float(np.quantile(picks, 0.05)), float(np.quantile(picks, 0.95))


def idle_devices(devices: Sequence[DeviceMinutes]) -> list[Advice]:
    """Find devices that were idle for nearly all of the time."""
    found = []
    for device in devices:
        known = np.isfinite(device.util_pct) & np.isfinite(device.power_w)
        util, power = device.util_pct[known], device.power_w[known]
        idle = util <= IDLE_PCT
        if len(util) < MIN_MINUTES or idle.mean() < IDLE_SHARE:
            continue
        kwh = power[idle] * idle.mean() * 24 / 1000
        low, high = interval(kwh)
        found.append(
            Advice(
                device.name,
                "idle_device",
                "drain it: its jobs fit elsewhere",
                float(kwh.mean()),
                low,
                high,
                "kWh per day",
                f"at most {IDLE_PCT:g} % in {idle.mean():.0%} of {len(util)} minutes, at {power[idle].mean():.0f} W",
                _minutes_query(device.name, "gpu_util_pct_avg, power_w_avg"),
                f"autopilot drain {device.name.split('/')[-1]} drain",
            )
        )
    return found


def caps_worth_setting(devices: Sequence[DeviceMinutes]) -> list[Advice]:
    """Find busy devices at full power where a cap would cost little time."""
    found = []
    for device in devices:
        known = np.isfinite(device.util_pct) & np.isfinite(device.power_w)
        busy = device.power_w[known & (device.util_pct >= BUSY_PCT)]
        curve = device.curve
        if device.capped or len(curve.cap_w) < 2 or len(busy) < MIN_MINUTES:
            continue
        energy = curve.relative_time * curve.power_w
        at = int(energy.argmin())
        share = 1.0 - float(energy[at] / energy[-1])
        if share < WORTH_CAPPING:
            continue
        kwh = float(busy.mean()) * len(busy) / max(1, int(known.sum())) * 24 / 1000
        low, high = _published_range(float(curve.cap_w[at] / curve.cap_w[-1]))
        found.append(
            Advice(
                device.name,
                "cap",
                f"cap at {curve.cap_w[at]:.0f} W",
                kwh * share,
                kwh * low,
                kwh * high,
                "kWh per day",
                f"{len(busy)} busy minutes at {busy.mean():.0f} W; a job's time {curve.relative_time[at] - 1:+.0%}",
                _minutes_query(device.name, "gpu_util_pct_avg, power_w_avg, power_cap_w_avg"),
                f"autopilot cap {device.name.split('/')[-1]} {curve.cap_w[at]:.0f} --lease-s 86400",
                float(round(curve.cap_w[at])),
            )
        )
    return found


def _published_range(fraction: float) -> tuple[float, float]:
    savings = []
    for caps, relative_time, power_w in published().values():
        energy = relative_time * power_w
        savings.append(1.0 - float(np.interp(fraction * caps[-1], caps, energy) / energy[-1]))
    return min(savings), max(savings)


def pools_too_large(pool: str, running: Doubles, floor: int, idle_w: float) -> list[Advice]:
    """Find floors above what was ever needed. `running` [T] jobs at once, at even steps."""
    needed = int(np.ceil(np.quantile(running, 0.99))) if len(running) else 0
    if len(running) < MIN_MINUTES or floor <= max(1, needed):
        return []
    spare = np.maximum(floor - np.maximum(running, max(1, needed)), 0.0) * idle_w * 24 / 1000
    low, high = interval(spare)
    return [
        Advice(
            pool,
            "over_provisioned",
            f"floor {max(1, needed)} instead of {floor}",
            float(spare.mean()),
            low,
            high,
            "kWh per day",
            f"99 % of the time at most {needed} jobs ran at once",
            f"SELECT started_at, finished_at FROM jobs WHERE worker LIKE '{pool}-%' ORDER BY started_at",  # noqa: S608
            f"autopilot policy --pool {pool} --floor {max(1, needed)}",
        )
    ]


def kinds_to_batch(kinds: Sequence[KindJobs]) -> list[Advice]:
    """Find kinds whose jobs queued while devices ran small batches, though larger ones were more efficient."""
    found = []
    for jobs in kinds:
        small, large = jobs.batch_size <= 2, jobs.batch_size >= 4
        if len(jobs.work_s) < MIN_JOBS or small.sum() < 10 or large.sum() < 10:
            continue
        waited = float(np.median(jobs.wait_s[small]))
        gain = 1.0 - jobs.work_s[large] / float(np.median(jobs.work_s[small]))
        queued = waited >= float(np.median(jobs.work_s))
        soon = np.diff(jobs.submitted_s, append=np.inf) <= BATCH_WAIT_S
        if np.median(gain) < WORTH_CAPPING or not (queued or soon[small].mean() >= BATCHABLE_SHARE):
            continue
        low, high = interval(gain, of=lambda x: float(np.median(x)))
        share = float(small.mean())
        found.append(
            Advice(
                f"{jobs.pool}/{jobs.kind}",
                "batch",
                "give its batches more time" if queued else f"let its jobs wait {BATCH_WAIT_S:g} s for a fuller batch",
                float(np.median(gain)) * share,
                low * share,
                high * share,
                "of its device time",
                f"{share:.0%} of {len(jobs.work_s)} jobs ran in batches of one or two after waiting {waited:.2f} s; "
                f"{soon[small].mean():.0%} of these were followed by another within {BATCH_WAIT_S:g} s",
                f"SELECT batch_size, wait_s, run_s FROM jobs WHERE kind = '{jobs.kind}'",  # noqa: S608
                "AUTOPILOT_BATCH_BUDGET_S=1 autopilot up"
                if queued
                else f"autopilot policy --pool {jobs.pool} --batch-delay-s {BATCH_WAIT_S:g}",
            )
        )
    return found


def shares_of_accelerators(kinds: Sequence[KindJobs], days: float) -> list[Advice]:
    """Find kinds of job that one kind of accelerator runs with fewer joules than another, and no slower."""
    found = []
    for jobs in kinds:
        known = np.isfinite(jobs.energy_j)
        energy_j = {str(a): jobs.energy_j[known & (jobs.accelerator == a)] for a in np.unique(jobs.accelerator)}
        energy_j = {name: its for name, its in energy_j.items() if len(its) >= MIN_JOBS}
        if len(energy_j) < 2:
            continue
        cheap = min(energy_j, key=lambda name: float(energy_j[name].mean()))
        for dear in sorted(set(energy_j) - {cheap}):
            took_s = [float(np.median(jobs.work_s[jobs.accelerator == name])) for name in (cheap, dear)]
            kwh = (energy_j[dear] - energy_j[cheap].mean()) * len(energy_j[dear]) / days / 3.6e6
            low, high = interval(kwh)
            if took_s[0] > took_s[1] or low <= 0:
                continue
            found.append(
                Advice(
                    f"{jobs.pool}/{jobs.kind}",
                    "share",
                    f"{MAX_SHARE:.0%} of the workers on {cheap} instead of {dear}",
                    float(kwh.mean()),
                    low,
                    high,
                    "kWh per day",
                    f"{energy_j[cheap].mean():.3g} J per job on {cheap}, {energy_j[dear].mean():.3g} J on {dear}",
                    f"SELECT device, energy_j, run_s FROM jobs WHERE kind = '{jobs.kind}'",  # noqa: S608
                    f"autopilot policy --share {cheap}={MAX_SHARE:g} --share {dear}={1 - MAX_SHARE:.2g}",
                )
            )
    return found


def unused_memory(devices: Sequence[DeviceMinutes]) -> list[Advice]:
    """Find devices that used at most half of their memory while they worked."""
    found = []
    for device in devices:
        used = device.memory_used_bytes[np.isfinite(device.memory_used_bytes)]
        worked = bool((device.util_pct >= BUSY_PCT).any())
        if len(used) < MIN_MINUTES or not device.memory_bytes > 0 or not worked:
            continue
        free = 1.0 - used / device.memory_bytes
        if free.min() < UNUSED_MEMORY:
            continue
        found.append(
            Advice(
                device.name,
                "unused_memory",
                "run more workers on it, or partition it (MIG)",
                float(free.min()) * device.memory_bytes / 2**30,
                float(free.min()) * device.memory_bytes / 2**30,
                float(free.mean()) * device.memory_bytes / 2**30,
                "GiB",
                f"at most {used.max() / 2**30:.1f} of {device.memory_bytes / 2**30:.0f} GiB in {len(used)} minutes",
                _minutes_query(device.name, "memory_used_bytes_max"),
                "autopilot policy --pool default --ceiling 8",
            )
        )
    return found


def _minutes_query(name: str, columns: str) -> str:
    node, _, device = name.partition("/")
    return (
        f"SELECT ts, {columns} FROM samples_1m JOIN devices USING (device_id) "  # noqa: S608  shown, not run
        f"WHERE node = '{node}' AND device = '{device}' ORDER BY ts"
    )
