"""Monitor the disk under nats-server: alert before it is full, and make the server write again afterwards.

nats-server keeps the first write error of a stream until it restarts, even when there is space again. A disk may be
full for less time than lies between two checks, so write errors count as well as free space.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from nats.aio.client import Client

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import DISK_FULL, Evidence, Severity
from accelerator_autopilot.deploy.local.disk_pressure import MIB, DiskPressure, RestartRule, severity_of
from accelerator_autopilot.deploy.local.nats_write_errors import WriteErrors, jetstream_is_off
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.condition_alerts import Condition, ConditionAlerts
from accelerator_autopilot.runtime.failure_description import failure_fields
from accelerator_autopilot.runtime.supervision import run_together
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.connection import connection_options
from accelerator_autopilot.transport.settings import NatsSettings

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
REPORT_INTERVAL_S = 1.0
# A server that has just started may not have one yet.
OFF_FOR_S = 5.0
DEVICE = "disk"
ACTION = (
    "free space on the disk of the data folder, or enlarge it: while it is full, jobs, results and telemetry "
    "are rejected; nats-server restarts automatically once there is space"
)


@dataclass
class DiskWatch:
    """Monitors the disk of `folder`, where the server that writes `log_file` stores its streams.

    `restart` stops that server so that it is restarted.
    """

    folder: Path
    log_file: Path
    restart: Callable[[], Awaitable[None]]
    node: str
    settings: NatsSettings
    limits: DiskPressure = field(default_factory=DiskPressure)
    _off_since: float | None = None

    def __post_init__(self) -> None:
        self._rule = RestartRule(self.limits)
        self._errors = WriteErrors(self.log_file)
        self._nc = Client()
        self._alerts = ConditionAlerts(
            Bus(self._nc.jetstream(timeout=5.0)),
            lambda a: (a.node, a.kind) == (self.node, DISK_FULL),
            actor="supervisor",
            prefix="disk-",
        )

    async def run(self) -> None:
        """Check and report, until cancelled."""
        try:
            await run_together(self._keep_looking(), self._keep_telling())
        finally:
            await self._nc.close()

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self.check()
            except OSError as error:
                log.warning("disk could not be checked", extra=failure_fields(error))
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def check(self) -> None:
        """Check once: note the alert, and restart the server where that is due. Raises OSError."""
        now = asyncio.get_running_loop().time()
        usage = await asyncio.to_thread(shutil.disk_usage, self.folder)
        failed = await asyncio.to_thread(self._errors.seen)
        off = self._off_since is not None and now - self._off_since > OFF_FOR_S
        share = usage.free / usage.total
        due = self._rule.due(usage.free, now, refused=failed or off)
        refused = self._rule.refused
        known = self._alerts.severity((self.node, DEVICE, DISK_FULL))
        severity = "critical" if refused else severity_of(share, known, self.limits)
        self._alerts.note([self._condition(severity, usage.free, share, refused=refused)] if severity else [])
        if due:
            log.warning("restarting nats-server: its disk was full", extra={"free_mib": usage.free // MIB})
            await self.restart()
            await asyncio.to_thread(self._errors.skip)
            self._off_since = None
            self._rule.restarted(asyncio.get_running_loop().time())

    def _condition(self, severity: Severity, free: int, share: float, *, refused: bool) -> Condition:
        room = f"{share:.1%} ({free // MIB} MiB) is free on the disk of the JetStream store"
        summary = f"nats-server could not write; now {room}" if refused else room
        expected = f"at least {self.limits.warning_share:g}"
        evidence = Evidence(metric="disk_free_ratio", value=share, expected=expected, at=utc_now())
        return Condition(self.node, DEVICE, DISK_FULL, severity, summary, ACTION, (evidence,))

    async def _keep_telling(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                if not self._nc.is_connected and not self._nc.is_reconnecting:
                    await self._nc.connect(self.settings.servers, **connection_options(self.settings, "autopilot-disk"))
                off = await jetstream_is_off(self._nc)
                self._off_since = (self._off_since or loop.time()) if off else None
                await self._alerts.send()
            except (UnavailableError, *BUS_ERRORS) as error:
                log.info("disk alert not sent yet", extra=failure_fields(error))
            await asyncio.sleep(REPORT_INTERVAL_S)
