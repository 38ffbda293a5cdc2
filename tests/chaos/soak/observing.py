"""The soak's own record of what the streams hold: a durable consumer each, apart from the product's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import nats.errors
import numpy as np
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import PowerCommand
from accelerator_autopilot.contracts.messages.jobs import DeadJob, JobResult
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent
from accelerator_autopilot.contracts.streams import durable
from tests.chaos.soak.alerts_ledger import AlertLedger
from tests.chaos.soak.caps_ledger import CapLedger
from tests.chaos.soak.frames_ledger import FrameLedger
from tests.chaos.soak.jobs_ledger import JobLedger

FETCH = 500
CAP_SLACK_W = 1.0
OUR_JOBS = "soak"


@dataclass
class Record:
    """Everything that was seen."""

    jobs: JobLedger = field(default_factory=JobLedger)
    frames: FrameLedger = field(default_factory=FrameLedger)
    caps: CapLedger = field(default_factory=CapLedger)
    alerts: AlertLedger = field(default_factory=AlertLedger)
    default_w: dict[tuple[str, str], float] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def on_result(self, message: Msg) -> None:
        result = JobResult.model_validate_json(message.data)
        if result.job_id.startswith(OUR_JOBS):
            self.jobs.result(_sequence(message), result.job_id, result.status)

    def on_letter(self, message: Msg) -> None:
        letter = DeadJob.model_validate_json(message.data)
        # What could not be read has an id of its own; its subject tells which job it was.
        job_id = subjects.job_id(letter.subject.split(".")[3:]) if letter.job is None else letter.id
        if job_id.startswith(OUR_JOBS):
            self.jobs.letter(_sequence(message), job_id, letter.reason)

    def on_frame(self, message: Msg) -> None:
        frame = decode(message.data)
        self.frames.frame(
            frame.node, frame.epoch_us, frame.sequence, frame.start_us, len(frame.devices), time.monotonic()
        )
        if "power_cap_w" not in frame.metrics:
            return
        caps = frame.values[-1, :, frame.metrics.index("power_cap_w")]
        usual = np.array([self.default_w.get((frame.node, d), np.nan) for d in frame.devices])
        low = np.flatnonzero(caps < usual - CAP_SLACK_W)
        self.caps.frame(frame.node, frame.start_us / 1e6, {frame.devices[i]: float(caps[i]) for i in low})

    def on_command(self, message: Msg) -> None:
        command = PowerCommand.model_validate_json(message.data)
        if command.cap_w is not None:
            times = _seconds(command.at), _seconds(command.expires_at)
            self.caps.asked((command.node, command.device), command.cap_w, *times, command.lease_s)

    def on_event(self, message: Msg) -> None:
        event = DeviceEvent.model_validate_json(message.data)
        if event.kind == "xid":
            self.alerts.event(event.node, event.device, f"xid_{event.code}", time.monotonic())

    def on_alert(self, message: Msg) -> None:
        alert = Alert.model_validate_json(message.data)
        if alert.severity == "critical" and alert.state != "resolved":
            self.alerts.alert(alert.id, alert.node, alert.device, alert.kind, time.monotonic())

    def sources(self) -> list[tuple[str, str, Callable[[Msg], None]]]:
        """Stream, filter, and who reads it."""
        return [
            ("RESULTS", ">", self.on_result),
            ("DEAD", subjects.DEAD, self.on_letter),
            ("TELEMETRY", subjects.FRAMES, self.on_frame),
            ("COMMANDS", "commands.power.>", self.on_command),
            ("EVENTS", subjects.EVENTS, self.on_event),
            ("ALERTS", subjects.ALERTS, self.on_alert),
        ]

    async def follow(self, js: JetStreamContext) -> None:
        """Read every stream until cancelled."""
        async with asyncio.TaskGroup() as group:
            for stream, subject, read in self.sources():
                group.create_task(self._follow(js, stream, subject, read))

    async def _follow(self, js: JetStreamContext, stream: str, subject: str, read: Callable[[Msg], None]) -> None:
        name = f"soak-{stream.lower()}"
        config = durable(name, *([] if subject == ">" else [subject]), max_ack_pending=100_000)
        subscription = None
        while True:
            try:
                if subscription is None:
                    await js.add_consumer(stream, config)
                    subscription = await js.pull_subscribe_bind(name, stream=stream)
                for message in await subscription.fetch(FETCH, timeout=1.0):
                    try:
                        read(message)
                    except ValueError as error:
                        self.unreadable.append(f"{stream} {message.metadata.sequence.stream}: {error!s:.200}")
                    await message.ack()
            except (nats.errors.Error, TimeoutError, OSError):
                await asyncio.sleep(0.1)


def _sequence(message: Msg) -> int:
    return int(message.metadata.sequence.stream)


def _seconds(at: datetime) -> float:
    return at.timestamp()
