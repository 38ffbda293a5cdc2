"""Simulate policies on the twin over a past time span of the fleet.

`python -m accelerator_autopilot.scheduler.commands.whatif --help`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

import numpy as np

from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.exit_codes import exit_code
from accelerator_autopilot.contracts.iso_times import parse_time
from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.runtime.settings import DatabaseSettings, load
from accelerator_autopilot.scheduler.adapters.database_history import read_past
from accelerator_autopilot.scheduler.application.twin_replay import interval_s, past_pools, played
from accelerator_autopilot.scheduler.domain.champion_challenger import BLOCK_S
from accelerator_autopilot.scheduler.domain.fleet_history import FleetHistory
from accelerator_autopilot.scheduler.policies.builtin import policy_names


def add_span(ask: argparse.ArgumentParser) -> None:
    """Add the options --from and --to."""
    ask.add_argument("--from", dest="since", type=parse_time, help="start of the span, ISO 8601")
    ask.add_argument("--to", dest="until", type=parse_time, help="its end; now when left out")


def past_of(arguments: argparse.Namespace, length: timedelta) -> FleetHistory:
    """Read the requested span. Raises AutopilotError."""
    until = arguments.until or datetime.now(UTC)
    since = arguments.since or until - length
    dsn = load(DatabaseSettings).database_url.get_secret_value()
    return asyncio.run(read_past(dsn, since, until))


def main() -> None:
    """Simulate, and print a table or JSON lines."""
    ask = argparse.ArgumentParser(prog="whatif", description=__doc__)
    add_span(ask)
    ask.add_argument("--policy", action="append", help="all when left out")
    ask.add_argument("--ceiling", type=int, help="replicas at most, instead of the policy's")
    ask.add_argument("--slack-s", type=float, help="how long a job may wait, instead of the policy's")
    ask.add_argument("--fleet-policy", type=FleetPolicy.model_validate_json, default=FleetPolicy(), help="as JSON")
    ask.add_argument("--json", action="store_true")
    a = ask.parse_args()
    try:
        for name in a.policy or []:
            if name not in policy_names():
                raise InvalidInputError("--policy", name, f"is not a policy; available: {', '.join(policy_names())}")
        past = past_of(a, timedelta(days=1))
        pools = past_pools(past, a.fleet_policy, a.ceiling, a.slack_s)
        outcomes = played(pools, a.policy or policy_names())
    except AutopilotError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(exit_code(error))
    recorded_j = sum(p.energy_j for p in pools)
    if np.isfinite(recorded_j):
        sys.stderr.write(
            f"recorded: {sum(len(p.trace.work_s) for p in pools)} jobs with {recorded_j:.0f} J of their own\n"
        )
    lines = []
    for name, outcome in sorted(outcomes.items(), key=lambda item: float(item[1].joules.sum())):
        blocks = outcome.blocks(round(BLOCK_S / interval_s(past)))
        jobs = int(outcome.jobs.sum())
        lines.append(
            {
                "policy": name,
                "jobs": jobs,
                "in_time": round(float((outcome.in_time * outcome.jobs).sum() / jobs), 4),
                "joules": round(float(outcome.joules.sum())),
                "ratio_to_bound": round(
                    float(outcome.joules.sum() / np.sum(outcome.joules / outcome.ratio_to_bound)), 3
                ),
                "starts": int(outcome.starts.sum()),
                "blocks": len(blocks.jobs),
            }
        )
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n" if a.json else _row(line))


def _row(line: dict[str, object]) -> str:
    return (
        f"{line['policy']!s:14s} {line['jobs']:7} jobs  in time {100 * float(str(line['in_time'])):6.2f} %  "
        f"{line['joules']:10} J  {line['ratio_to_bound']:6} of the bound  {line['starts']:5} starts\n"
    )


if __name__ == "__main__":
    main()
