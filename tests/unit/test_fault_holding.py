"""What needs a reset stays open until one is seen or an operator says so; what a source does is never critical."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from accelerator_autopilot.anomaly.application.message_handlers import Detection
from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.detectors import all_detectors
from accelerator_autopilot.anomaly.domain.detectors.xid import needs_reset
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import DrainCommand
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from tests.support.builders import at, device, event, frame


class Bench:
    """Detection on a clock of its own; what it published, and what is stored across a restart."""

    def __init__(self, stored: list[Alert] | None = None, now: float = 0.0) -> None:
        self.now, self.told, self.kept = now, [], []
        fleet = SourceTopology()
        self.detection = Detection(
            DetectionEngine(), all_detectors(600.0, fleet),
            AlertLifecycle(), self.publish, lambda: at(self.now), (), fleet,
            self.kept.append,
        )  # fmt: skip
        self.detection.restore(stored or [])

    async def publish(self, alert: Alert) -> None:
        self.told.append(alert)

    def restarted(self) -> Bench:
        return Bench(self.detection.book.open_alerts, self.now)

    @property
    def critical(self) -> list[str]:
        return sorted(f"{a.device} {a.kind}" for a in self.detection.book.open_alerts if a.severity == "critical")

    async def until(self, seconds: float) -> None:
        while self.now < seconds:
            self.now = min(self.now + 1.0, seconds)
            await self.detection.on_time(at(self.now))

    async def event(self, kind: str, **more: Any) -> None:
        await self.detection.on_event(event(kind, self.now, **more))

    async def inventory(self, *devices: str, boot_id: str = "b1", epoch: str = "d1", **more: Any) -> None:
        base = {"node": "n1", "at": at(self.now), "period_s": 1.0, "sources": {"nvml": "ok"}, "boot_id": boot_id}
        source = more.pop("source", "nvml")
        listed = [device(device=name, source=source, driver_epoch=epoch) for name in devices]
        await self.detection.on_inventory(NodeInventory.model_validate({**base, "devices": listed, **more}))

    async def restore_by(self, issuer: str, name: str = "gpu-0", said_at: float | None = None) -> None:
        said = at(self.now if said_at is None else said_at)
        await self.detection.on_command(
            DrainCommand(
                id="c", issuer=issuer, reason="r", at=said, expires_at=said, node="n1", device=name, action="restore"
            )
        )

    async def frames(self, seconds: float, values: dict[str, float], names: tuple[str, ...] = ("gpu-0",)) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            one = frame(devices=names, metrics=tuple(values), start=at(self.now))
            one.values[:] = list(values.values())
            await self.detection.on_frames([one])
            await self.detection.on_time(at(self.now))


class TestXids:
    @pytest.mark.parametrize("code", [48, 62, 64, 79, 95, 119, 154])
    async def test_neither_quiet_nor_a_restart_of_the_agent_ends_what_needs_a_reset(self, code: int) -> None:
        bench = Bench()
        await bench.event("xid", code=code)
        await bench.until(7200)
        for cause in ("agent_started", "returned", ""):
            await bench.event("appeared", cause=cause)
        assert bench.critical == [f"gpu-0 xid_{code}"]
        await bench.event("appeared", cause="reset")
        assert bench.critical == []
        assert (bench.told[-1].state, bench.told[-1].end_reason) == ("resolved", "the device was reset")

    async def test_an_applications_fault_lapses(self) -> None:
        bench = Bench()
        for code in (13, 31, 43, 94):
            assert not needs_reset(code)
            await bench.event("xid", code=code)
        await bench.until(601)
        assert bench.detection.book.open_alerts == []

    @pytest.mark.parametrize(("boot_id", "epoch", "why"), [("b2", "d1", "booted"), ("b1", "d2", "reloaded")])
    async def test_another_boot_or_load_of_the_driver_is_a_reset(self, boot_id: str, epoch: str, why: str) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        await bench.event("xid", code=79)
        bench.now = 50.0
        await bench.inventory("gpu-0", "gpu-1")
        assert bench.critical
        await bench.inventory("gpu-0", "gpu-1", boot_id=boot_id, epoch=epoch)
        assert bench.critical == []
        assert why in bench.told[-1].end_reason

    async def test_a_reset_while_the_detector_was_away_is_seen_by_what_the_alert_carries(self) -> None:
        bench = Bench()
        await bench.event("xid", code=79, boot_id="b1")
        again = bench.restarted()
        await again.until(10_000)
        assert again.critical == ["gpu-0 xid_79"]
        await again.inventory("gpu-0", "gpu-1", boot_id="b1")
        assert again.critical == ["gpu-0 xid_79"]
        await again.inventory("gpu-0", "gpu-1", boot_id="b2")
        assert again.critical == []

    async def test_the_boot_that_is_told_only_later_is_stored_with_the_alert(self) -> None:
        bench = Bench()
        await bench.event("xid", code=79)
        await bench.inventory("gpu-0", "gpu-1", boot_id="b1")
        assert [(a.boot_id, a.driver_epoch) for a in bench.kept] == [("b1", "d1")]
        again = bench.restarted()
        await again.inventory("gpu-0", "gpu-1", boot_id="b2")
        assert again.critical == []

    async def test_a_fault_after_the_reset_is_not_ended_by_it(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1", boot_id="b2")
        await bench.event("xid", code=79, boot_id="b2")
        await bench.inventory("gpu-0", "gpu-1", boot_id="b2")
        await bench.detection.on_event(event("appeared", -5, cause="reset"))
        assert bench.critical == ["gpu-0 xid_79"]

    async def test_a_recovery_action_that_goes_back_to_none_is_a_reset(self) -> None:
        bench = Bench()
        await bench.event(
            "xid", code=154, message="GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"
        )
        assert bench.critical == ["gpu-0 xid_154"]
        bench.now = 5.0
        await bench.event(
            "xid", code=154, message="GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
        )
        assert bench.critical == []

    async def test_an_operator_may_say_so_and_the_scheduler_may_not(self) -> None:
        bench = Bench()
        await bench.event("xid", code=79)
        bench.now = 30.0
        await bench.restore_by("scheduler")
        assert bench.critical == ["gpu-0 xid_79"]
        await bench.restore_by("anna", said_at=-3600)
        assert bench.critical == ["gpu-0 xid_79"], "said before the fault was seen"
        await bench.restore_by("anna")
        assert bench.critical == []
        assert bench.told[-1].end_reason == "restored by anna"
        await bench.event("xid", code=79)
        assert bench.critical == ["gpu-0 xid_79"], "a new fault is a new alert"

    async def test_what_is_advised_gets_worse_with_the_alert(self) -> None:
        bench = Bench()
        for n in range(3):
            bench.now = 3600.0 * n
            await bench.event("xid", code=31)
            # Kept open meanwhile.
        opened = [a for a in bench.told if a.state != "resolved"]
        assert (opened[-1].severity, opened[-1].escalated) == ("warning", True)
        assert opened[-1].action == "drain; run diagnostics"
        assert not opened[0].escalated


class TestSamples:
    async def test_uncorrected_errors_are_held_though_their_counter_stands_still(self) -> None:
        bench = Bench()
        await bench.frames(2, {"ecc_dbe": 0.0})
        await bench.frames(1, {"ecc_dbe": 1.0})
        await bench.frames(1000, {"ecc_dbe": 1.0})
        assert bench.critical == ["gpu-0 ecc_uncorrected"]
        await bench.event("reset")
        await bench.frames(2, {"ecc_dbe": 0.0})
        assert bench.critical == []

    async def test_an_operators_word_ends_it_and_a_new_error_opens_a_new_alert(self) -> None:
        bench = Bench()
        await bench.frames(2, {"ecc_dbe": 0.0})
        await bench.frames(10, {"ecc_dbe": 1.0})
        await bench.restore_by("anna")
        await bench.frames(2, {"ecc_dbe": 1.0})
        assert bench.critical == []
        await bench.frames(2, {"ecc_dbe": 2.0})
        assert bench.critical == ["gpu-0 ecc_uncorrected"]
        assert [a.state for a in bench.told] == ["opened", "resolved", "opened"]

    async def test_what_comes_back_again_and_again_is_held(self) -> None:
        bench = Bench()
        for _ in range(4):
            await bench.frames(10, {"temp_c": 95.0, "temp_slowdown_c": 83.0})
            await bench.frames(600, {"temp_c": 30.0, "temp_slowdown_c": 83.0})
        assert bench.critical == ["gpu-0 thermal"], "a drained device is always cool"
        await bench.restore_by("anna")
        await bench.frames(5, {"temp_c": 30.0, "temp_slowdown_c": 83.0})
        assert bench.critical == []

    async def test_a_device_that_stays_silent_stays_out_also_over_a_restart(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        await bench.frames(3, {"power_w": 100.0}, ("gpu-0", "gpu-1"))
        await bench.frames(20, {"power_w": 100.0}, ("gpu-1",))
        assert bench.critical == ["gpu-0 samples_stopped"]
        again = bench.restarted()
        await again.frames(30, {"power_w": 100.0}, ("gpu-1",))
        assert again.critical == ["gpu-0 samples_stopped"]
        await again.frames(3, {"power_w": 100.0}, ("gpu-0", "gpu-1"))
        assert again.critical == []


class TestSources:
    async def test_all_devices_of_a_source_are_no_evidence_about_one(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        for kind in ("lost", "probe_hung"):
            for name in ("gpu-0", "gpu-1"):
                await bench.event(kind, device=name)
        await bench.until(3600)
        assert bench.critical == []
        assert {a.severity for a in bench.detection.book.open_alerts} == {"warning"}

    async def test_one_device_that_is_lost_among_others_is_critical_within_seconds(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        await bench.event("lost")
        assert bench.critical == []
        await bench.until(5)
        assert bench.critical == ["gpu-0 device_lost"]
        assert bench.told[-1].escalated

    async def test_a_driver_that_hangs_for_a_moment_drains_nothing(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        await bench.event("probe_hung")
        await bench.until(20)
        await bench.event("probe_recovered")
        await bench.until(200)
        assert [(a.kind, a.severity, a.state) for a in bench.told] == [
            ("driver_hung", "warning", "opened"), ("driver_hung", "warning", "resolved"),
        ]  # fmt: skip

    @pytest.mark.parametrize(("source", "critical"), [("scrape http://x", []), ("nvml", ["gpu-0 device_lost"])])
    async def test_the_only_device_of_an_exporter_is_never_judged(self, source: str, critical: list[str]) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", source=source, sources={source: "ok"})
        await bench.event("lost")
        await bench.until(300)
        assert bench.critical == critical

    async def test_an_exporter_that_goes_silent_drains_nothing(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1", source="scrape http://x")
        both = ("gpu-0", "gpu-1", "cpu")
        await bench.frames(3, {"power_w": 100.0}, both)
        await bench.frames(300, {"power_w": 100.0}, ("cpu",))
        assert bench.critical == []
        assert {a.kind for a in bench.detection.book.open_alerts} == {"samples_stopped"}


class TestRemoval:
    async def test_alerts_of_a_device_that_was_taken_out_end_with_that_reason(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "mig-1")
        await bench.frames(3, {"power_w": 100.0}, ("gpu-0", "mig-1"))
        await bench.event("lost", device="mig-1")
        await bench.event("xid", code=95, device="mig-1")
        await bench.frames(20, {"power_w": 100.0}, ("gpu-0",))
        assert len(bench.critical) == 3
        for _ in range(3):
            bench.now += 30.0
            await bench.inventory("gpu-0")
        assert bench.critical == []
        assert {a.end_reason for a in bench.told if a.state == "resolved"} == {"device removed"}
        await bench.frames(100, {"power_w": 100.0}, ("gpu-0",))
        assert bench.critical == []

    async def test_a_discovery_that_failed_removes_nothing(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        await bench.event("xid", code=79)
        for number in range(20):
            bench.now += 30.0
            await bench.inventory("gpu-1", sources={"nvml": "ok" if number % 2 else "driver does not answer"})
        assert bench.critical == ["gpu-0 xid_79"]


async def test_frames_of_many_ticks_leave_the_loop_to_others() -> None:
    bench = Bench()
    long = frame(metrics=("power_w",), ticks=3_000)
    long.values[:] = np.linspace(100, 120, 3_000, dtype=np.float32)[:, None, None]
    looking = asyncio.create_task(bench.detection.on_frames([long]))
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 5
