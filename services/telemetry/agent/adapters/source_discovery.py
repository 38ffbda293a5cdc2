"""Determine a node's sources: discovered devices, configured ones, or else the CPU.

Nothing here waits for a driver: what may be slow, hung or not loaded yet is opened in its source's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.runtime.driver_release_request import released
from accelerator_autopilot.telemetry.agent.adapters.amd_smi import AmdSmiSource
from accelerator_autopilot.telemetry.agent.adapters.apple import AppleSource
from accelerator_autopilot.telemetry.agent.adapters.cpu import CpuSource
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.jetson import JetsonSource
from accelerator_autopilot.telemetry.agent.adapters.late_driver import LateDriverSource
from accelerator_autopilot.telemetry.agent.adapters.runtime_suspend import NVIDIA, all_suspended
from accelerator_autopilot.telemetry.agent.adapters.sysfs_gpu import SysfsSource
from accelerator_autopilot.telemetry.agent.ports import DeviceSource
from accelerator_autopilot.telemetry.settings import AgentSettings
from accelerator_autopilot.transport.clock import utc_now


def make_sources(settings: AgentSettings) -> list[DeviceSource]:
    """Return the sources that these settings ask for and this machine may have."""
    drivers: list[LateDriverSource] = []
    is_released = partial(released, settings.data_dir, lambda: utc_now().timestamp())
    if settings.nvml:
        drivers.append(LateDriverSource("nvml", _open_nvml, is_released))
    if settings.other_accelerators:
        drivers += [
            LateDriverSource("amd", _open_amd, is_released),
            LateDriverSource("intel", _open_intel),
            LateDriverSource("jetson", JetsonSource),
            LateDriverSource("apple", AppleSource),
        ]
    sources: list[DeviceSource] = [*drivers]
    urls = [url.strip() for url in settings.scrape_urls.split(",") if url.strip()]
    pages = [ExporterSource(url, take_hosts=settings.scrape_hostnames) for url in urls]
    sources += pages
    if settings.cpu == "always":
        sources.append(CpuSource())
    elif settings.cpu == "auto" and not pages:
        sources.append(LateDriverSource("cpu", cpu_without(drivers)))
    if settings.simulate:
        from accelerator_autopilot.telemetry.agent.adapters.simulated_source import SimulatedSource  # noqa: PLC0415  needs numpy

        sources.append(SimulatedSource(settings.node, settings.simulate, seed=settings.simulate_seed))
    if settings.replay_file:
        from accelerator_autopilot.telemetry.agent.adapters.frame_replay import ReplaySource  # noqa: PLC0415  needs numpy

        sources.append(ReplaySource(settings.replay_file))
    return sources


def cpu_without(drivers: Sequence[LateDriverSource]) -> Callable[[], CpuSource]:
    """Return the CPU as a source where there is no driver.

    While a driver hangs, that is unknown. The CPU stays when a driver is loaded later.
    """

    def open_cpu() -> CpuSource:
        if not all(driver.absent for driver in drivers):
            raise UnavailableError("the node has accelerators, or a driver that does not respond")
        return CpuSource()

    return open_cpu


def _open_nvml() -> DeviceSource:
    from accelerator_autopilot.telemetry.agent.adapters.nvml import NvmlSource  # noqa: PLC0415  needs the driver's package

    if all_suspended(NVIDIA):
        raise UnavailableError("all NVIDIA GPUs are asleep, and opening the driver would wake them")
    return NvmlSource()


def _open_amd() -> DeviceSource:
    """Open AMD's own library, else sysfs; never both, which would report each card twice."""
    try:
        return AmdSmiSource()
    except UnavailableError as error:
        return _shown(SysfsSource(vendors=("amd",)), f"{error}, and sysfs shows no AMD card")


def _open_intel() -> DeviceSource:
    return _shown(SysfsSource(vendors=("intel",)), "sysfs shows no Intel card")


def _shown(source: SysfsSource, otherwise: str) -> SysfsSource:
    """Return a source that has devices now. Raises UnavailableError."""
    if not source.discover():
        raise UnavailableError(otherwise)
    return source
