"""What all lanes of a worker share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nats.aio.msg import Msg

if TYPE_CHECKING:
    from services.inference.outcomes import Taken

# Exit code of a worker that asks for a fresh process (EX_TEMPFAIL of sysexits.h).
BEGIN_ANEW = 75


@dataclass
class WorkerState:
    """The jobs in hand, and how the worker has done so far.

    `share` is what the device's state allows of a batch, `batch_delay_s` how long its first job waits for company,
    `speed` how fast a simulated device is.
    """

    device_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: dict[str, Msg] = field(default_factory=dict)
    running: dict[str, Taken] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    jobs_done: int = 0
    jobs_failed: int = 0
    busy_s: float = 0.0
    batch_started: float | None = None
    last_job_at: float = 0.0
    share: float = 1.0
    batch_delay_s: float = 0.0
    speed: float = 1.0
    begin_anew: bool = False
