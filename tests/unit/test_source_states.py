"""From sources to events as a state machine: a healthy device is never accused for what its source does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, DeviceInfo
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import INCOMPLETE_FOR_S, ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.sampling import Sampler
from accelerator_autopilot.telemetry.agent.domain.frame_assembly import LOST_AFTER_TICKS
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer
from accelerator_autopilot.telemetry.errors import SourceBusyError, SourceHungError
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent
from tests.support.builders import device
from tests.support.stateful import stateful_settings

T = TypeVar("T")
PAGE = "http://exporter:9400/metrics"
METRICS = ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_FB_USED")


class Driver:
    """A driver of three GPUs; those in `lost` fell off the bus."""

    name = "driver"
    gpus = ("gpu-0", "gpu-1", "gpu-2")

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.fault = ""

    def discover(self) -> list[DeviceInfo]:
        self._may_fail()
        return [device(device=name) for name in self.gpus if name not in self.lost]

    def sample(self) -> dict[str, Sample]:
        self._may_fail()
        return {name: {"power_w": 1.0} for name in self.gpus if name not in self.lost}

    def _may_fail(self) -> None:
        if self.fault == "raises":
            raise KeyError("one bad card")
        if self.fault == "says no":
            raise UnavailableError("driver was unloaded")

    def poll_events(self) -> list[SourceEvent]:
        if self.fault == "no events":
            raise RuntimeError("event queue overflow")
        return []

    def close(self) -> None: ...


class Exporter:
    """An exporter of two cards; those in `lost` left its page. A page without any card is no page, so one stays."""

    cards = ("GPU-a", "GPU-b")

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.fault = ""

    def page(self, _: str) -> str:
        cards = [card for card in self.cards if card not in self.lost]
        lines = [f'{metric}{{UUID="{card}"}} 44' for metric in METRICS for card in cards]
        if self.fault == "away":
            raise OSError(111, "Connection refused")
        if self.fault == "says no":
            raise UnavailableError("answers 500")
        if self.fault == "half":
            # Cut within the first metric: what comes is whole lines of some cards.
            lines = lines[: len(cards) - 1]
        if self.fault == "empty":
            lines = []
        if self.fault == "cut":
            return "\n".join(lines)[:-10]
        if self.fault == "bad line":
            lines.insert(1, 'DCGM_FI_DEV_GPU_TEMP{UUID="GPU-a 44')
        return "\n".join(lines) + "\n"


class Guard(ThreadedSource):
    """What callers see of a guarded source, without threads and waiting."""

    def __init__(self, source: Any) -> None:
        self._source, self.name, self.mode = source, source.name, ""

    async def call(self, function: Callable[[], T]) -> T:
        if self.mode == "frozen":
            raise SourceHungError(f"source {self.name}: no answer")
        if self.mode == "busy":
            raise SourceBusyError(f"source {self.name}: no turn")
        return function()


class SourceStates(RuleBasedStateMachine):
    """A driver and an exporter beside each other; ticks and discoveries come in any order."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.driver, self.exporter = Driver(), Exporter()
        self.scrape = ExporterSource(PAGE, self.exporter.page)
        self.guards = [Guard(self.driver), Guard(self.scrape)]
        self.read = 0
        self.ticks_lost: dict[str, int] = {}
        self.hung_told: set[str] = set()
        self.gone_told: set[str] = set()
        self.source_told: dict[str, str] = {}
        self.drive_frozen = False

        async def nothing(*_: Any) -> None: ...

        health, buffer = HealthState("agent"), FrameBuffer(100_000)
        self.sampler = Sampler("n1", 1.0, self.guards, nothing, nothing, health, buffer)
        self.discover()
        self.tick(1)

    def lost(self) -> set[str]:
        return self.driver.lost | self.exporter.lost

    @rule(ticks=st.sampled_from((1, 2, 5)))
    def tick(self, ticks: int) -> None:
        for _ in range(ticks):
            self.loop.run_until_complete(self.sampler._tick())
            self.check()

    @rule()
    def discover(self) -> None:
        self.loop.run_until_complete(self.sampler.discover_devices())

    @rule(fault=st.sampled_from(("", "raises", "says no", "no events")))
    def fail_driver(self, fault: str) -> None:
        self.driver.fault = fault

    @rule(fault=st.sampled_from(("", "away", "says no", "half", "empty", "cut", "bad line")))
    def fail_exporter(self, fault: str) -> None:
        self.exporter.fault = fault

    @rule(which=st.integers(0, 1), mode=st.sampled_from(("", "frozen", "busy")))
    def hold_up(self, which: int, mode: str) -> None:
        self.guards[which].mode = mode
        self.drive_frozen = self.guards[0].mode == "frozen"

    @rule(name=st.sampled_from((*Driver.gpus, "GPU-a")))
    def lose_or_return(self, name: str) -> None:
        source: Driver | Exporter = self.driver if name in Driver.gpus else self.exporter
        source.lost ^= {name}

    def check(self) -> None:
        """Look at what was told since the last tick."""
        told = [DeviceEvent.model_validate_json(i.body) for i in list(self.sampler.buffer)[self.read :] if i.is_event]
        self.read = len(self.sampler.buffer)
        for event in told:
            if event.kind == "probe_hung":
                assert event.device in Driver.gpus, "an exporter says nothing of its devices by hanging"
                assert self.drive_frozen
                self.hung_told.add(event.device)
            elif event.kind == "probe_recovered":
                self.hung_told.discard(event.device)
            elif event.kind == "lost":
                assert event.device in self.lost() or (event.device in Driver.gpus and self.drive_frozen)
                assert event.device not in self.gone_told, "once"
                self.gone_told.add(event.device)
            elif event.kind == "appeared":
                assert event.device not in self.lost()
                self.gone_told.discard(event.device)
            elif event.kind == "source_failed":
                assert self.source_told.get(event.device) != "source_failed", "once"
                self.source_told[event.device] = event.kind
            elif event.kind == "source_recovered":
                self.source_told[event.device] = event.kind
            else:
                raise AssertionError(f"nothing tells of {event.kind}")

    @rule()
    def all_is_told_once_sources_are_well(self) -> None:
        self.driver.fault = self.exporter.fault = ""
        self.drive_frozen = False
        for guard in self.guards:
            guard.mode = ""
        self.discover()
        self.tick(LOST_AFTER_TICKS)
        if self.scrape._half_since_s is not None:
            # A device that left the page with others' metrics is believed after a while.
            self.scrape._half_since_s -= INCOMPLETE_FOR_S
            self.tick(LOST_AFTER_TICKS)
        self.discover()
        assert self.hung_told == set()
        assert self.gone_told <= self.lost()
        known = set(self.sampler._transitions._missed)
        assert self.lost() & known <= self.gone_told, "a lost one is told"
        assert "source_failed" not in self.source_told.values()
        assert not self.sampler.health.ready()[1].keys() - {"started"}
        there = set(Driver.gpus + Exporter.cards) - self.lost()
        frames = [i.body for i in self.sampler.buffer if not i.is_event]
        if there:
            assert set(decode(frames[-1]).devices) == there

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.all_is_told_once_sources_are_well()
            self.loop.close()


TestSourceStates = SourceStates.TestCase
TestSourceStates.settings = stateful_settings(examples=40, steps=25)
