"""The soak from the shell. The last line is JSON; the exit status is 1 where an invariant was broken."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.soak.plan import SHORT_PLAN, Fault, long_plan
from tests.chaos.soak.report import Report
from tests.chaos.soak.run import Scale, Soak

LEAST_LONG_MINUTES = 15.0


async def _until_told(soak: Soak, plan: Sequence[Fault]) -> Report:
    """Run to the end; SIGTERM ends it as Ctrl-C does, so that neither processes nor mounts are left behind."""
    running = asyncio.ensure_future(soak.run(plan))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await running


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="every fault from 15 minutes on, else a few")
    parser.add_argument("--rate", type=float, default=200.0, help="jobs a second")
    parser.add_argument("--devices", type=int, default=1000, help="simulated devices")
    parser.add_argument("--seed", type=int, default=1, help="of the order of faults")
    parser.add_argument("--folder", type=Path, help="kept afterwards, with the logs; a temporary one by default")
    parser.add_argument("--only", default="", help="only faults whose 'kind target' contains this; all: a space")
    parser.add_argument("--hold", type=float, default=1.0, help="share of its usual time that a fault is held")
    parser.add_argument("--patience", type=float, default=1.0, help="how much longer every limit is on a busy machine")
    arguments = parser.parse_args()
    long = arguments.minutes >= LEAST_LONG_MINUTES
    plan = long_plan(random.Random(arguments.seed)) if long or arguments.only else list(SHORT_PLAN)
    plan = [replace(f, hold_s=f.hold_s * arguments.hold) for f in plan if arguments.only in f"{f.kind} {f.target}"]
    if not plan:
        parser.error(f"--only {arguments.only}: no such fault")
    agents = 3
    scale = Scale(
        seconds=60 * arguments.minutes,
        rate=arguments.rate,
        agents=agents,
        devices_each=-(-arguments.devices // agents),
        seed=arguments.seed,
        patience=arguments.patience,
    )
    with tempfile.TemporaryDirectory(prefix="autopilot-soak-", ignore_cleanup_errors=True) as folder:
        report = asyncio.run(_until_told(Soak(arguments.folder or Path(folder), scale), plan))
    print(report.table())
    for line in report.lines():
        print(line)
    print(report.json())
    sys.exit(report.failed)


if __name__ == "__main__":
    main()
