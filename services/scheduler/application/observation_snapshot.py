"""Store the latest observations of each pool in the object store, so that they survive a restart."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from nats.js import JetStreamContext

from accelerator_autopilot.contracts.errors import NotFoundError, UnavailableError
from accelerator_autopilot.scheduler.domain.npz_files import load_arrays
from accelerator_autopilot.scheduler.policies.policy_warmup import PolicyWarmup, Rows
from accelerator_autopilot.scheduler.policies.shadow_policies import ShadowPolicies
from accelerator_autopilot.transport.object_store import read_object, write_object

log = logging.getLogger(__name__)

OBJECT = "scheduler-looks"
SAVE_INTERVAL_S = 60.0


@dataclass
class ObservationSnapshot:
    """Writes and reads one object; `name` is this process."""

    js: JetStreamContext
    runner: ShadowPolicies
    name: str

    async def run(self, leads: Callable[[], bool]) -> None:
        """Write periodically while this process leads."""
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            if leads():
                await self.keep()

    async def keep(self) -> None:
        """Write the known observations; failures of the broker are logged and retried."""
        data = await asyncio.to_thread(_written_down, self.runner.looks, self.name)
        if data is None:
            return
        try:
            await write_object(self.js, "artifacts", OBJECT, data)
        except UnavailableError as error:
            log.info("observations not stored", extra={"error": type(error).__name__})

    async def restore(self) -> None:
        """Continue from what another process wrote; a missing or unreadable object counts as no history."""
        try:
            data = await read_object(self.js, "artifacts", OBJECT)
            kept = _unpacked(data, self.runner.looks.interval_s, self.name)
            if kept:
                self.runner.restore(kept)
                log.info("observations restored", extra={"pools": len(kept)})
        except NotFoundError:
            return
        except (UnavailableError, ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("observations not restored", extra={"error": type(error).__name__})


def _written_down(looks: PolicyWarmup, writer: str) -> bytes | None:
    """Run in a thread: copying an hour of observations of a thousand pools takes half a second."""
    kept = looks.kept()
    return _packed(kept, looks.interval_s, writer) if kept else None


def _packed(kept: dict[str, Rows], interval_s: float, writer: str) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(
        file,
        writer=np.array(writer),
        interval_s=np.array(interval_s),
        pools=np.array(list(kept)),
        counts=np.array([len(rows) for rows in kept.values()]),
        rows=np.concatenate(list(kept.values())),
    )
    return file.getvalue()


def _unpacked(data: bytes, interval_s: float, reader: str) -> dict[str, Rows]:
    arrays = load_arrays(data)
    if str(arrays["writer"]) == reader or float(arrays["interval_s"]) != interval_s:
        return {}
    ends = np.cumsum(arrays["counts"])[:-1]
    return dict(zip(map(str, arrays["pools"].tolist()), np.split(arrays["rows"], ends), strict=True))
