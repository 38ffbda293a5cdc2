"""Recommend changes from the fleet's history: python -m accelerator_autopilot.scheduler.commands.advisor --help."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta

import numpy as np

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.exit_codes import exit_code
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.iso_times import parse_time
from accelerator_autopilot.contracts.messages.commands import (
    Command,
    DrainCommand,
    FleetPolicy,
    PowerCommand,
    Recommendation,
)
from accelerator_autopilot.scheduler.commands.whatif import add_span, past_of
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory
from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles
from accelerator_autopilot.scheduler.domain.power_curves import curve_of
from accelerator_autopilot.scheduler.domain.recommendations import (
    DAY_S,
    Advice,
    DeviceMinutes,
    KindJobs,
    caps_worth_setting,
    idle_devices,
    interval,
    kinds_to_batch,
    pools_too_large,
    shares_of_accelerators,
    unused_memory,
)
from accelerator_autopilot.transport.clock import utc_now

STEP_S = 60.0
CAPPED_BELOW = 0.98
# It is based on days of data, so it stays valid for a few more days.
ADVICE_VALID = timedelta(days=7)


def advise(past: FleetHistory, policy: FleetPolicy) -> list[Advice]:
    """Return all advice, the largest savings of each kind first."""
    devices = list(_devices(past))
    found = idle_devices(devices) + caps_worth_setting(devices) + unused_memory(devices)
    for pool in sorted(set(past.jobs.pool)):
        watts = [curve_of(d.model, d.power_default_w, d.power_min_w).idle_w for d in past.devices] or [0.0]
        floor = policy.pool(pool).floor
        found += pools_too_large(pool, running_at_once(past, pool), floor, float(np.median(watts)))
    kinds = list(_kinds(past))
    found += kinds_to_batch(kinds) + shares_of_accelerators(kinds, (past.length_s - past.jobs.from_s) / DAY_S)
    return sorted(found, key=lambda a: (a.unit, -a.saving))


def _devices(past: FleetHistory) -> Iterator[DeviceMinutes]:
    for d in past.devices:
        default_w = d.power_default_w or float("inf")
        capped = bool(np.nanmedian(d.cap_w) < CAPPED_BELOW * default_w) if np.isfinite(d.cap_w).any() else False
        yield DeviceMinutes(
            f"{d.node}/{d.device}",
            d.util_pct,
            d.power_w,
            d.memory_used_bytes,
            d.memory_bytes,
            curve_of(d.model, d.power_default_w, d.power_min_w),
            capped,
        )


def running_at_once(past: FleetHistory, pool: str) -> Doubles:
    """Return [T] the jobs of a pool that ran at each minute of the span."""
    its = np.array([p == pool for p in past.jobs.pool], bool)
    steps = np.arange(past.jobs.from_s, past.length_s, STEP_S)
    began = np.searchsorted(np.sort(past.jobs.started_s[its]), steps, side="right")
    ended = np.searchsorted(np.sort(past.jobs.finished_s[its]), steps, side="right")
    return (began - ended).astype(float)


def _kinds(past: FleetHistory) -> Iterator[KindJobs]:
    jobs = past.jobs
    gpus = {(d.node, d.device) for d in past.devices if d.power_default_w}
    accelerators = np.array(["gpu" if device in gpus else "cpu" for device in jobs.device])
    for pool, kind in sorted(set(zip(jobs.pool, jobs.kind, strict=True))):
        its = np.array([(p, k) == (pool, kind) for p, k in zip(jobs.pool, jobs.kind, strict=True)])
        wait_s = jobs.started_s[its] - jobs.submitted_s[its]
        yield KindJobs(
            pool,
            kind,
            jobs.submitted_s[its],
            wait_s,
            jobs.work_s[its],
            jobs.batch_size[its].astype(float),
            jobs.energy_j[its],
            accelerators[its],
        )


def effect(before: FleetHistory, after: FleetHistory) -> dict[str, float]:
    """Measure the effect of a change: mean after against before, with the 90 % interval of the difference."""
    measured: dict[str, float] = {}
    for name, values in {
        "watts_per_device": [np.concatenate([d.power_w for d in p.devices] or [np.zeros(0)]) for p in (before, after)],
        "joules_per_job": [p.jobs.energy_j for p in (before, after)],
        "wait_s": [p.jobs.started_s - p.jobs.submitted_s for p in (before, after)],
    }.items():
        old, new = (v[np.isfinite(v)] for v in values)
        if not len(old) or not len(new):
            continue
        low, high = interval(new - old.mean())
        measured |= {name: float(new.mean() - old.mean()), f"{name}_low": low, f"{name}_high": high}
    return measured


def main() -> None:
    """Analyse, and print one line per recommendation."""
    ask = argparse.ArgumentParser(prog="analyse", description=__doc__)
    add_span(ask)
    ask.add_argument("--applied", type=parse_time, help="instead: measure the effect of a change at this moment")
    ask.add_argument("--fleet-policy", type=FleetPolicy.model_validate_json, default=FleetPolicy(), help="as JSON")
    ask.add_argument("--json", action="store_true")
    ask.add_argument("--recommendations", action="store_true", help="print messages as JSON lines")
    a = ask.parse_args()
    try:
        if a.applied:
            before = past_of(argparse.Namespace(since=a.since, until=a.applied), timedelta(hours=6))
            after = past_of(argparse.Namespace(since=a.applied, until=a.until), timedelta(hours=6))
            sys.stdout.write(json.dumps({k: round(v, 4) for k, v in effect(before, after).items()}) + "\n")
            return
        found = advise(past_of(a, timedelta(days=1)), a.fleet_policy)
    except AutopilotError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(exit_code(error))
    if a.recommendations:
        sys.stdout.writelines(recommendation(each, utc_now()).model_dump_json() + "\n" for each in found)
        return
    for each in found:
        sys.stdout.write(json.dumps(asdict(each)) + "\n" if a.json else _text(each))
    if not found and not a.json:
        sys.stdout.write("nothing to advise: no idle device, no cap, floor or batch worth changing\n")


def recommendation(each: Advice, now: datetime) -> Recommendation:
    """Return the recommendation message; those about a single device can be approved."""
    node, _, device = each.scope.partition("/")
    base = {"id": new_id(), "issuer": "analyse", "reason": each.kind, "at": now, "expires_at": now}
    command: Command | None = None
    subject: str | None = None
    if each.kind == "cap":
        command = PowerCommand(**base, node=node, device=device, cap_w=each.value, lease_s=DAY_S)
        subject = subjects.power_command(node, device)
    elif each.kind == "idle_device":
        command = DrainCommand(**base, node=node, device=device, action="drain")
        subject = subjects.drain_command(node, device)
    return Recommendation(
        id=new_id(),
        scope=each.scope,
        action=f"{each.action}: {each.command}",
        reason=each.kind,
        expected_effect=f"{each.saving:.3g} {each.unit} ({each.low:.3g} to {each.high:.3g})",
        confidence=0.9,
        evidence={"saving": each.saving, "low": each.low, "high": each.high},
        at=now,
        subject=subject,
        command=command.model_dump(mode="json") if command else None,
        expires_at=now + ADVICE_VALID,
    )


def _text(each: Advice) -> str:
    return (
        f"{each.scope}: {each.action}\n  saves {each.saving:.3g} {each.unit} ({each.low:.3g} to {each.high:.3g}): "
        f"{each.why}\n  evidence: {each.query}\n  apply: {each.command}\n"
    )


if __name__ == "__main__":
    main()
