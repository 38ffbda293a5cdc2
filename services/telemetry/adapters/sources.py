"""Which sources a node has: what is found on it, what settings name, else the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable

from services.telemetry.adapters.amd_smi import AmdSmiSource
from services.telemetry.adapters.apple import AppleSource
from services.telemetry.adapters.cpu import CpuSource
from services.telemetry.adapters.jetson import JetsonSource
from services.telemetry.adapters.scrape import ScrapeSource
from services.telemetry.adapters.sysfs_gpu import SysfsSource
from services.telemetry.ports import DeviceSource
from services.telemetry.settings import AgentSettings
from shared.errors import UnavailableError

log = logging.getLogger(__name__)


def make_sources(settings: AgentSettings) -> list[DeviceSource]:
    """The sources that these settings and this machine have."""
    found: list[DeviceSource] = []
    if settings.nvml:
        from services.telemetry.adapters.nvml import NvmlSource  # noqa: PLC0415  needs the driver's package

        _try(found, NvmlSource)
    if settings.other_accelerators:
        for source in (AmdSmiSource, JetsonSource, AppleSource):
            _try(found, source)
        sysfs = SysfsSource()
        # amdsmi and sysfs would both show the same AMD cards.
        if not any(isinstance(s, AmdSmiSource) for s in found) and sysfs.discover():
            found.append(sysfs)
    found += [ScrapeSource(url.strip()) for url in settings.scrape_urls.split(",") if url.strip()]
    if settings.cpu == "always" or (settings.cpu == "auto" and not found):
        found.append(CpuSource())
    if settings.simulate:
        from services.telemetry.adapters.simulated import SimulatedSource  # noqa: PLC0415  needs numpy

        found.append(SimulatedSource(settings.node, settings.simulate, seed=settings.simulate_seed))
    if settings.replay_file:
        from services.telemetry.adapters.replay import ReplaySource  # noqa: PLC0415  needs numpy

        found.append(ReplaySource(settings.replay_file))
    return found


def _try(found: list[DeviceSource], make: Callable[[], DeviceSource]) -> None:
    try:
        found.append(make())
    except UnavailableError as error:
        log.info("source not there", extra={"reason": str(error)})
