"""Create the weekly report on energy and service when a week has ended, and store it in the object store."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.report_names import report_name
from accelerator_autopilot.runtime.bus import BUS_ERRORS, Bus
from accelerator_autopilot.runtime.database import database
from accelerator_autopilot.transport.clock import Clock
from accelerator_autopilot.transport.object_store import write_object

REPORT = "accelerator_autopilot.scheduler.commands.report_page"
log = logging.getLogger(__name__)

CHECK_INTERVAL_S, MADE_WITHIN_S = 3600.0, 600.0
WEEK = timedelta(days=7)
MEASURED = "SELECT 1 FROM samples_1m WHERE ts >= $1 AND ts < $2 LIMIT 1"


def last_week(now: datetime) -> tuple[datetime, datetime]:
    """Return the last full week, from Monday to Monday."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    until = midnight - timedelta(days=midnight.weekday())
    return until - WEEK, until


@dataclass
class WeeklyReports:
    """Checks periodically whether the last week has its report."""

    dsn: str
    bus: Bus
    js: JetStreamContext
    clock: Clock
    leads: Callable[[], bool]

    async def run(self) -> None:
        """Run forever."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            if self.leads():
                try:
                    await self.make()
                except (AutopilotError, TimeoutError, *BUS_ERRORS) as error:
                    log.info("weekly report not created", extra={"reason": f"{type(error).__name__}: {error}"})

    async def make(self) -> str | None:
        """Create the last week's report; returns its name, or None where nothing was measured.

        Raises UnavailableError.
        """
        since, until = last_week(self.clock())
        name = report_name(since)
        store = await self.js.object_store("artifacts")
        try:
            await store.get_info(name)
        except NotFoundError:
            page = await self._page(since, until) if await self._measured(since, until) else None
            if page is None:
                return None
            await write_object(self.js, "artifacts", name, page)
            log.info("weekly report created", extra={"report": name})
        return name

    async def _measured(self, since: datetime, until: datetime) -> bool:
        async with database(self.dsn) as pool:
            return await pool.fetchval(MEASURED, since, until) is not None

    async def _page(self, since: datetime, until: datetime) -> bytes | None:
        policy = await self.bus.policy()
        with tempfile.TemporaryDirectory(prefix="autopilot-report-") as folder:
            out = Path(folder) / "report.html"
            # In a separate process: plots and the twin would double this one's memory.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", REPORT, "--out", str(out), "--from", since.isoformat(),
                "--to", until.isoformat(), "--fleet-policy", policy.model_dump_json(),
                env=os.environ | {"AUTOPILOT_DATABASE_URL": self.dsn}, stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                async with asyncio.timeout(MADE_WITHIN_S):
                    code = await process.wait()
            except TimeoutError:
                code = -1
            finally:
                # Also when this service stops meanwhile: nobody would read the result.
                if process.returncode is None:
                    process.kill()
            if code:
                log.warning("weekly report failed", extra={"exit_code": code})
                return None
            return await asyncio.to_thread(out.read_bytes)
