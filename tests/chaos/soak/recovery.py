"""How long after a fault until everything is ready, jobs run and frames of every node come again."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import dataclass, field

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.deploy.local.product import EmbeddedProduct
from tests.chaos.soak.faults import Injector
from tests.chaos.soak.load import TRANSIENT
from tests.chaos.soak.observing import Record
from tests.chaos.soak.plan import Fault

CHECK_INTERVAL_S = 0.3


@dataclass(frozen=True)
class Healed:
    """One fault: when it began, after how long readiness told of it, and how long after its end all was well."""

    fault: Fault
    at: str
    noticed_s: float | None
    recovered_s: float | None
    problems: dict[str, str]
    last: str = ""
    """What was well again last."""


@dataclass
class Recovery:
    """Puts faults in one after the other, and times what comes after."""

    product: EmbeddedProduct
    client: AutopilotClient
    record: Record
    injector: Injector
    within_s: float
    healed: list[Healed] = field(default_factory=list)
    _last: str = ""

    async def go_through(self, fault: Fault) -> Healed:
        """One fault from its beginning until all is well again, or the time is up."""
        began, at = time.monotonic(), time.strftime("%H:%M:%S", time.gmtime())
        noticed: float | None = None
        failed: dict[str, str] = {}
        try:
            async with self.injector.injected(fault):
                while (left := began + fault.hold_s - time.monotonic()) > 0:
                    if noticed is None and any((await self.product.readiness()).values()):
                        noticed = time.monotonic() - began
                    await asyncio.sleep(min(CHECK_INTERVAL_S, left))
        except (*TRANSIENT, subprocess.CalledProcessError) as error:
            failed = {"the fault": f"was not put in or taken out: {type(error).__name__}: {error}"}
        ended = time.monotonic()
        self._last = ""
        problems = failed or await self._well_again(ended)
        took = None if problems else round(time.monotonic() - ended, 1)
        healed = Healed(fault, at, None if noticed is None else round(noticed, 1), took, problems or {}, self._last)
        self.healed.append(healed)
        return healed

    async def _well_again(self, ended: float) -> dict[str, str] | None:
        """Nothing when all is well, else what is not when the time is up."""
        canary = asyncio.create_task(self._job_runs())
        try:
            while True:
                problems = {name: why for name, why in (await self.product.readiness()).items() if why}
                if not canary.done():
                    problems["a job"] = "has no result"
                for node, seen in self.record.frames.last_seen.items():
                    if seen < ended:
                        problems[f"node {node}"] = "has sent no frame"
                if not problems:
                    return None
                self._last = ", ".join(f"{name} {why:.60}" for name, why in problems.items())
                if time.monotonic() > ended + self.within_s:
                    return problems
                await asyncio.sleep(CHECK_INTERVAL_S)
        finally:
            canary.cancel()

    async def _job_runs(self) -> None:
        job_id = f"canary-{new_id()[:8]}"
        while True:
            try:
                await self.client.jobs.submit("echo", {"text": "canary"}, job_id=job_id, priority="high")
                await self.client.jobs.wait(job_id, 10.0)
            except TRANSIENT:
                await asyncio.sleep(0.2)
            else:
                return
