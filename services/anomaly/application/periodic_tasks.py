"""Periodic tasks of the anomaly detector; each runs until cancelled."""

from __future__ import annotations

import asyncio
import logging

from nats.js import JetStreamContext

from accelerator_autopilot.anomaly.application.message_handlers import Detection
from accelerator_autopilot.anomaly.domain.learned.snapshot import Snapshot
from accelerator_autopilot.anomaly.ports import SaveSnapshot
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items

log = logging.getLogger(__name__)

SNAPSHOT_INTERVAL_S, INVENTORY_INTERVAL_S = 300.0, 60.0


async def watch_time(detection: Detection) -> None:
    """Let detection process the passage of time."""
    while True:
        beat()
        await detection.on_time(utc_now())
        await asyncio.sleep(1.0)


async def keep_snapshots(save: SaveSnapshot, detection: Detection) -> None:
    """Save the learned state periodically."""
    while True:
        await asyncio.sleep(SNAPSHOT_INTERVAL_S)
        keep_snapshot(save, detection)


def keep_snapshot(save: SaveSnapshot, detection: Detection) -> None:
    """Save the learned state; a failure is logged and retried."""
    try:
        save(Snapshot(detection.watch.roster.snapshot(), detection.watch.snapshot()))
    except (OSError, RuntimeError) as error:
        log.warning("snapshot not saved", extra={"error": str(error)})


async def keep_inventories(js: JetStreamContext, detection: Detection) -> None:
    """Read every inventory: a watch can miss changes after the server was unreachable."""
    while True:
        beat()
        try:
            for inventory in (await bucket_items(js, "inventory", NodeInventory)).values():
                await detection.on_inventory(inventory)
        except (*BUS_ERRORS, TimeoutError) as error:
            log.info("inventories not read", extra={"error": type(error).__name__})
        await asyncio.sleep(INVENTORY_INTERVAL_S)
