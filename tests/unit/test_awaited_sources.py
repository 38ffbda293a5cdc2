"""Drivers that load after the agent, hang while they are opened, or are not there at all."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent.adapters import source_discovery as sources_module
from accelerator_autopilot.telemetry.agent.adapters.late_driver import LateDriverSource
from accelerator_autopilot.telemetry.agent.adapters.power_cap_file import PowerCapFile
from accelerator_autopilot.telemetry.agent.adapters.simulated_source import SimulatedSource
from accelerator_autopilot.telemetry.agent.adapters.source_discovery import cpu_without, make_sources
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.power_control import PowerControl
from accelerator_autopilot.telemetry.agent.application.sampling import Sampler
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer
from accelerator_autopilot.telemetry.settings import AgentSettings
from tests.support.waiting import eventually

SIM = "sim-n1-0"


def sampler_of(*sources: LateDriverSource, timeout_s: float = 0.05) -> Sampler:
    async def publish(*_: Any) -> None: ...

    async def put(_: Any) -> None: ...

    guarded = [ThreadedSource(source, timeout_s) for source in sources]
    return Sampler("n1", 1.0, guarded, publish, put, HealthState("agent"), FrameBuffer(100), inventory_period_s=0.05)


def told(sampler: Sampler) -> list[str]:
    return [DeviceEvent.model_validate_json(i.body).kind for i in sampler.buffer if i.is_event]


class Driver:
    """A driver that is not loaded, hangs while it is opened, or opens."""

    def __init__(self) -> None:
        self.loaded, self.frozen = False, threading.Event()
        self.frozen.set()
        self.gpus = SimulatedSource("n1", 1)

    def open(self) -> SimulatedSource:
        self.frozen.wait(20)
        if not self.loaded:
            raise UnavailableError("driver not loaded")
        return self.gpus


@pytest.mark.parametrize("frozen", [False, True], ids=["not loaded", "frozen"])
async def test_a_cap_of_the_run_before_is_given_back_when_its_driver_appears(frozen: bool, tmp_path: Path) -> None:
    driver = Driver()
    driver.gpus.set_cap_w(SIM, 150.0)
    path = tmp_path / "caps.json"
    path.write_text(json.dumps([{"device": SIM, "clock": False, "default_w": None}]))
    if frozen:
        driver.frozen.clear()
    sampler = sampler_of(LateDriverSource("nvml", driver.open))
    steady_s = 0.0
    power = PowerControl("n1", sampler.find, PowerCapFile(path), lambda: list(sampler.devices), lambda: steady_s)
    async with asyncio.timeout(2):
        await sampler.discover_devices()
        await power.restore_all()
    await sampler._tick()
    assert ("source nvml" in sampler.health.ready()[1]) is frozen
    assert told(sampler) == []
    assert json.loads(path.read_text())
    driver.loaded = True
    driver.frozen.set()
    looking = asyncio.create_task(sampler.keep_discovering())

    async def restored() -> bool:
        nonlocal steady_s
        steady_s += 1.0
        await power.restore_expired(power.clock())
        return json.loads(path.read_text()) == []

    try:
        await eventually(restored)
    finally:
        looking.cancel()
    assert driver.gpus.applied_cap_w(SIM) == 250.0
    await sampler._tick()
    assert "source nvml" not in sampler.health.ready()[1]
    assert told(sampler) == ["source_recovered", "appeared"]
    frames = [decode(i.body) for i in sampler.buffer if not i.is_event]
    assert frames[-1].devices == (SIM,)


async def test_a_driver_that_hung_and_then_is_not_there_is_no_trouble() -> None:
    driver = Driver()
    driver.frozen.clear()
    sampler = sampler_of(LateDriverSource("nvml", driver.open))
    await sampler.discover_devices()
    await sampler._tick()
    assert "no answer" in sampler._states["nvml"]
    driver.frozen.set()

    async def quiet() -> bool:
        await sampler.discover_devices()
        await sampler._tick()
        return "source nvml" not in sampler.health.ready()[1]

    await eventually(quiet)
    assert (sampler._states, sampler._source_watch.reasons, told(sampler)) == ({}, {}, [])


class TestSources:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
        def fail() -> Any:
            raise AssertionError("opened before the agent runs")

        monkeypatch.setattr(sources_module, "_open_nvml", fail)
        monkeypatch.setattr(sources_module, "_open_amd", fail)
        monkeypatch.setattr(sources_module, "_open_intel", fail)
        return lambda **more: make_sources(AgentSettings(node="n1", **more))

    def test_no_driver_is_called_when_sources_are_made(self, made: Callable[..., list[Any]]) -> None:
        assert [s.name for s in made()] == ["nvml", "amd", "intel", "jetson", "apple", "cpu"]
        assert [s.name for s in made(nvml=False, other_accelerators=False, cpu="never", simulate=1)] == ["simulated"]
        page = "http://h:9400/metrics"
        assert [s.name for s in made(nvml=False, other_accelerators=False, scrape_urls=page)] == [f"scrape {page}"]

    def test_the_cpu_is_shown_where_no_driver_is(self) -> None:
        driver = Driver()
        awaited = LateDriverSource("nvml", driver.open)
        cpu = LateDriverSource("cpu", cpu_without([awaited]))
        assert cpu.discover() == []
        awaited.discover()
        assert cpu.discover()[0].vendor == "cpu"
        driver.loaded = True
        awaited.discover()
        assert cpu.discover()[0].vendor == "cpu"
        assert LateDriverSource("cpu", cpu_without([awaited])).discover() == []
