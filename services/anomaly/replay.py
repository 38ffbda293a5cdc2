"""Run the detectors over a past time span from a file or the database.

`python -m accelerator_autopilot.anomaly.replay --help`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from accelerator_autopilot.anomaly.adapters.database_history import past_ticks
from accelerator_autopilot.anomaly.adapters.telemetry_tables import Table, read_table
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.last_values import Slots
from accelerator_autopilot.anomaly.domain.learned.input_channels import LEARN_S
from accelerator_autopilot.anomaly.domain.replay import DetectorReplay, Moment, ReplayedAlert
from accelerator_autopilot.anomaly.settings import AnomalySettings
from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError
from accelerator_autopilot.contracts.exit_codes import exit_code
from accelerator_autopilot.contracts.iso_times import parse_time
from accelerator_autopilot.runtime.settings import DatabaseSettings, load

if TYPE_CHECKING:
    from accelerator_autopilot.anomaly.adapters.replay_plot import Recording

PROGRESS_INTERVAL_S = 5.0
# A learning step takes a few milliseconds, however few devices there are.
MAX_LEARNING_STEPS, MAX_LEARNING_PERIOD_S = 6_000, 300.0


def line(replayed: ReplayedAlert) -> dict[str, object]:
    """Format an alert as an output line."""
    alert = replayed.alert
    return {
        "device": alert.device,
        "kind": alert.kind,
        "severity": alert.severity,
        "score": round(alert.score, 4),
        "opened_s": replayed.opened_s,
        "resolved_s": replayed.resolved_s,
        "summary": alert.summary,
        "action": alert.action,
        "evidence": [e.model_dump(mode="json", exclude={"at"}) for e in alert.evidence],
    }


def collect(since: datetime, until: datetime) -> list[Moment]:
    """Collect the moments of a time span of the database."""

    async def read() -> list[Moment]:
        dsn = load(DatabaseSettings).database_url.get_secret_value()
        return [moment async for moment in past_ticks(dsn, since, until)]

    return asyncio.run(read())


def usual_period_s(moments: list[Moment]) -> float:
    """Return the median distance between moments."""
    steps = sorted(b.at_s - a.at_s for a, b in pairwise(moments))
    return steps[len(steps) // 2] if steps else 1.0


def say(text: str) -> None:
    """Print a line to standard error."""
    sys.stderr.write(f"{text}\n")


def learning_period_s(table: Table) -> float:
    """Return how often to learn from a table: as in operation, but less often for a very long past."""
    span_s = float(table.at_s[-1] - table.at_s[0]) if len(table.at_s) else 0.0
    usual_s = max(LEARN_S, table.period_s)
    return (
        usual_s if span_s / usual_s <= MAX_LEARNING_STEPS else min(MAX_LEARNING_PERIOD_S, span_s / MAX_LEARNING_STEPS)
    )


def rerun_table(again: DetectorReplay, table: Table, slots: Slots, recording: Recording | None) -> None:
    """Process a table, reporting progress every few seconds."""
    total, done, began = len(table.at_s), 0, time.monotonic()
    reported_at = began
    for block in table.blocks(slots):
        if recording is not None:
            recording.keep_block(block, table.names, slots)
        again.take_block(block)
        done += len(block.at_s)
        now = time.monotonic()
        if now - reported_at > PROGRESS_INTERVAL_S:
            reported_at = now
            left_s = (now - began) / done * (total - done)
            say(f"{done / total:.0%} of {total} rows, about {left_s:.0f} s to go")


def run(arguments: argparse.Namespace) -> list[ReplayedAlert]:
    """Read, detect, plot. Raises AutopilotError."""
    settings = load(AnomalySettings)
    only = frozenset(arguments.detector) if arguments.detector else None
    recording = None
    if arguments.plot:
        from accelerator_autopilot.anomaly.adapters.replay_plot import Recording  # noqa: PLC0415  takes a second, and few want a picture

        recording = Recording()

    def made(learn_s: float) -> DetectionEngine:
        return DetectionEngine(settings.false_alarms_per_week, settings.node_timeout_s, only, learn_s)

    if arguments.input is not None:
        table = read_table(arguments.input)
        say(f"{len(table.at_s)} rows of {len(table.names)} devices: {', '.join(table.metrics)}")
        for remark in table.remarks:
            say(remark)
        learn_s = learning_period_s(table)
        if learn_s > max(LEARN_S, table.period_s):
            say(f"so long a past is learnt from every {learn_s:.0f} s, not each {LEARN_S:.0f} s; rules see each row")
        watch = made(learn_s)
        again = DetectorReplay(watch, table.node, table.period_s)
        rerun_table(again, table, watch.slots(table.node, table.names), recording)
    elif arguments.since and arguments.until:
        moments = collect(arguments.since, arguments.until)
        again = DetectorReplay(made(LEARN_S), "past", usual_period_s(moments))
        for moment in recording.keep(moments) if recording else moments:
            again.take(moment)
    else:
        raise InvalidInputError("--input", None, "is needed, or --from and --to")
    if recording:
        recording.draw(again.alerts, arguments.plot)
    return again.alerts


def main() -> None:
    """Replay, and write one JSON line per alert."""
    parser = argparse.ArgumentParser(prog="replay", description=__doc__)
    parser.add_argument(
        "--input", type=Path, help="CSV of any dialect, Parquet, Arrow or JSON lines; docs/how-to/replay-telemetry.md"
    )
    parser.add_argument("--from", dest="since", type=parse_time, help="start of a span of the database, ISO 8601")
    parser.add_argument("--to", dest="until", type=parse_time, help="its end")
    parser.add_argument("--out", type=Path, help="JSON lines; standard output when left out")
    parser.add_argument("--detector", action="append", help="only alerts of this kind; may be given several times")
    parser.add_argument("--plot", type=Path, help="plot of the alerted devices, PNG or SVG")
    arguments = parser.parse_args()
    try:
        alerts = run(arguments)
    except AutopilotError as error:
        say(f"error: {error}")
        sys.exit(exit_code(error))
    text = "".join(json.dumps(line(replayed)) + "\n" for replayed in alerts)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    say(f"{len(alerts)} alerts")


if __name__ == "__main__":
    main()
