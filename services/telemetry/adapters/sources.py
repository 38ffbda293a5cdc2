"""Which sources a node has: GPUs where there are any, else the CPU; simulated and recorded ones on request."""

from __future__ import annotations

import logging

from services.telemetry.adapters.cpu import CpuSource
from services.telemetry.adapters.replay import ReplaySource
from services.telemetry.adapters.simulated import SimulatedSource
from services.telemetry.ports import DeviceSource
from services.telemetry.settings import AgentSettings
from shared.errors import UnavailableError

log = logging.getLogger(__name__)


def make_sources(settings: AgentSettings) -> list[DeviceSource]:
    """The sources that these settings and this machine have."""
    sources: list[DeviceSource] = []
    if settings.nvml:
        from services.telemetry.adapters.nvml import NvmlSource  # noqa: PLC0415  needs the driver's package

        try:
            sources.append(NvmlSource())
        except UnavailableError as error:
            log.info("no nvidia gpus", extra={"reason": str(error)})
    if settings.cpu and not sources:
        sources.append(CpuSource())
    if settings.simulate:
        sources.append(SimulatedSource(settings.node, settings.simulate, seed=settings.simulate_seed))
    if settings.replay_file:
        sources.append(ReplaySource(settings.replay_file))
    return sources
