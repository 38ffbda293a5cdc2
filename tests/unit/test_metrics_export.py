"""What agent and recorder tell of themselves and of devices: events, /metrics, OTLP, clocks, runs, buffers."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.contracts.metric_catalogue import METRICS, NAMES
from accelerator_autopilot.runtime.broker import make_broker
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.service import ServiceApp
from accelerator_autopilot.runtime.settings import ServiceSettings
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.kernel_log import KernelLog
from accelerator_autopilot.telemetry.agent.adapters.power_privilege import may_control_power
from accelerator_autopilot.telemetry.agent.application.inventory_publisher import InventoryPublisher
from accelerator_autopilot.telemetry.agent.domain.energy import CounterBase, EnergyCheck, EnergyIntegral
from accelerator_autopilot.telemetry.agent.domain.event_deduplication import OccurrenceFilter
from accelerator_autopilot.telemetry.agent.domain.kernel_lines import normal_pci
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer, Outgoing
from accelerator_autopilot.telemetry.agent.domain.sampling_periods import SamplingSchedule
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.device_metrics.otel_export import start_export
from accelerator_autopilot.telemetry.device_metrics.prometheus_exposition import DeviceCollector
from accelerator_autopilot.telemetry.recorder.adapters.copy_format import copy_binary
from accelerator_autopilot.telemetry.recorder.app import create_recorder
from accelerator_autopilot.telemetry.recorder.domain.clock_skew import ClockWatch
from accelerator_autopilot.telemetry.recorder.domain.frame_blocks import stack
from accelerator_autopilot.telemetry.samples import SourceEvent
from accelerator_autopilot.telemetry.settings import RecorderSettings
from tests.support.builders import T0, at, device, frame

XID_LINE = "4,1234,5678,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."


def xid(origin: str, code: int = 79) -> SourceEvent:
    return SourceEvent("GPU-1", "xid", code, origin=origin)


class TestOccurrences:
    def test_the_same_xid_told_twice_is_one(self) -> None:
        seen = OccurrenceFilter()
        assert [seen.is_new(xid(o), t) for o, t in [("nvml", 0), ("kernel", 1), ("kernel", 2), ("nvml", 3)]] == [
            True, False, True, False,
        ]  # fmt: skip

    def test_occurrences_far_apart_or_of_other_codes_are_their_own(self) -> None:
        seen = OccurrenceFilter()
        assert seen.is_new(xid("nvml"), 0)
        assert seen.is_new(xid("kernel", 31), 1)
        assert seen.is_new(xid("kernel"), 100)

    @given(st.lists(st.sampled_from(["nvml", "kernel"]), max_size=30))
    def test_as_many_are_told_as_the_source_that_saw_more(self, origins: list[str]) -> None:
        seen = OccurrenceFilter()
        told = sum(seen.is_new(xid(origin), 0.0) for origin in origins)
        assert max(origins.count("nvml"), origins.count("kernel")) <= told <= len(origins)


class TestKernelLog:
    def test_xids_are_found_with_their_device(self, tmp_path: Path) -> None:
        path = tmp_path / "kmsg"
        path.write_text("6,1,1,-;usb 1-1: new device\n")
        log = KernelLog({"0000:3b:00": "GPU-1"}.get, path)
        assert log.readable
        assert log.poll() == []
        with path.open("a") as file:
            file.write(f"{XID_LINE}\n6,2,2,-;NVRM: loading\n{XID_LINE.replace('3b:', 'ff:')}\n")
        assert [(e.device, e.code, e.origin) for e in log.poll()] == [("GPU-1", 79, "kernel")]
        assert log.poll() == []

    def test_a_log_that_may_not_be_read_is_none(self, tmp_path: Path) -> None:
        log = KernelLog({}.get, tmp_path / "missing")
        assert not log.readable
        assert log.poll() == []

    def test_addresses_of_both_writers_are_the_same(self) -> None:
        assert normal_pci("00000000:3B:00.0") == normal_pci("0000:3b:00") == "0000:3b:00"


class TestEnergy:
    def test_power_is_integrated_by_the_trapezoidal_rule_and_not_across_gaps(self) -> None:
        integral = EnergyIntegral()
        integral.add([(0, 100), (1, 200), (1, 999), (2, 200), (60, 200), (61, 100)])
        assert integral.energy_j == pytest.approx(150 + 200 + 150)

    def test_the_check_compares_what_both_gained_in_a_minute(self) -> None:
        check = EnergyCheck()
        assert [check.compare(t, t * 90.0, 5 + t * 100.0) for t in (0, 30, 60)] == [None, None, pytest.approx(0.9)]
        assert check.compare(61, 0.0, 1.0) is None

    @given(st.lists(st.floats(0, 1000), min_size=1, max_size=200), st.floats(1500, 5000))
    def test_a_bounded_counter_grows_by_as_much_for_whoever_knows_resets(
        self, steps: list[float], limit: float
    ) -> None:
        base, raw, told, before = CounterBase(limit), 0.0, 0.0, None
        for step in steps:
            raw += step
            value = base.apply(raw)
            assert value <= 2 * limit
            told += 0.0 if before is None else value - before if value >= before else value
            before = value
        assert told == pytest.approx(sum(steps[1:]), abs=1e-6 * max(1.0, raw))


def test_readings_are_due_at_their_rates() -> None:
    due = SamplingSchedule()
    assert due.rates(0.0) == ["fast", "medium", "slow", "static"]
    assert due.rates(1.0) == ["fast"]
    assert due.rates(9.98) == ["fast", "medium"]


class TestStack:
    def test_frames_of_different_metrics_and_devices_become_one_block(self) -> None:
        first = frame(devices=("a", "b"), metrics=("power_w", "temp_c"), ticks=2, value=1.0)
        second = frame(node="n2", metrics=("temp_c", "unheard_of"), value=7.0, start=at(1))
        ids = {"n1": np.array([2, 1], np.int32), "n2": np.array([9], np.int32)}
        block = stack([first, second], lambda f: ids[f.node], NAMES)
        assert block.metrics == ("power_w", "temp_c")
        assert block.device_ids.tolist() == [1, 1, 2, 2, 9]
        assert np.isnan(block.values[4, 0])
        assert block.values[4, 1] == 7.0

    def test_of_two_samples_of_one_moment_one_stays(self) -> None:
        block = stack([frame(value=1.0), frame(value=2.0)], lambda _: np.array([1], np.int32), NAMES)
        assert len(block) == 1

    def test_nothing_known_is_no_rows(self) -> None:
        assert len(stack([frame(metrics=("unheard_of",))], lambda _: np.array([1], np.int32), NAMES)) == 0

    @given(missing=st.lists(st.booleans(), min_size=6, max_size=6))
    def test_the_copy_stream_leaves_out_exactly_what_is_missing(self, missing: list[bool]) -> None:
        made = frame(devices=("a", "b"), metrics=("power_w", "energy_j", "temp_c"))
        made.values[0].ravel()[:] = [np.nan if gone else 5.0 for gone in missing]
        block = stack([made], lambda _: np.array([1, 2], np.int32), NAMES)
        sizes = [8 if name == "energy_j" else 4 for name in block.metrics] * 2
        fixed = 19 + 2 + 2 * (2 + 12 + 8 + 3 * 4)
        present = np.isfinite(block.values).ravel()
        assert len(copy_binary(block)) == fixed + sum(s for s, there in zip(sizes, present, strict=True) if there)

    def test_what_is_too_small_for_a_mean_is_nothing(self) -> None:
        made = frame(devices=("a",), metrics=("power_w",))
        made.values[0].ravel()[:] = 1e-45
        block = stack([made], lambda _: np.array([1], np.int32), NAMES)
        assert copy_binary(block)[-6:-2] == b"\0\0\0\0"


class TestClocks:
    def test_a_clock_an_hour_off_is_told_once_and_its_return_too(self) -> None:
        watch, now = ClockWatch(), int(T0.timestamp() * 1e6)
        hour = 3600 * 1_000_000
        ahead = frame(start=T0 + timedelta(hours=1))
        assert watch.observe(ahead, now)
        assert watch.off["n1"] == pytest.approx(3600)
        assert watch.is_off(ahead)
        assert not watch.observe(frame(start=T0 + timedelta(hours=1, seconds=1)), now + 1_000_000)
        assert watch.observe(frame(start=T0 + timedelta(hours=2)), now + 2 * hour)
        assert watch.off == {}

    def test_frames_that_waited_for_the_broker_are_no_wrong_clock(self) -> None:
        watch, now = ClockWatch(), int(T0.timestamp() * 1e6)
        assert not watch.observe(frame(start=T0 - timedelta(minutes=9)), now)


class TestBuffer:
    def test_a_full_buffer_is_thinned_and_events_stay(self) -> None:
        buffer = FrameBuffer(10)
        for number in range(40):
            buffer.append(Outgoing("s", b"", str(number), is_event=number == 1))
        kept = [item.message_id for item in buffer]
        assert len(kept) <= 10
        assert kept[-1] == "39"
        assert "1" in kept
        assert buffer.dropped == 40 - len(kept)

    def test_what_goes_together_keeps_the_order_of_each_subject(self) -> None:
        buffer = FrameBuffer(10)
        for number, subject in enumerate("abcad"):
            buffer.append(Outgoing(subject, b"", str(number)))
        together = buffer.heads(8)
        assert [item.message_id for item in together] == ["0", "1", "2"]
        assert buffer.heads(2) == together[:2]
        buffer.remove(together[1])
        assert [item.message_id for item in buffer.heads(8)] == ["0", "2"]

    def test_what_was_thinned_meanwhile_is_not_removed_twice(self) -> None:
        buffer = FrameBuffer(2)
        for number in range(3):
            buffer.append(Outgoing("s", b"", str(number)))
        before = len(buffer)
        buffer.remove(Outgoing("s", b"", "0"))
        assert len(buffer) == before


def told(**more: object) -> LatestSamples:
    latest = LatestSamples(10)
    info = device(device="GPU-1", model="NVIDIA H100", index=3, pci_bus_id="00000000:3B:00.0", driver="600", **more)
    sample = {"power_w": 250.0, "energy_j": 10.0, "memory_used_bytes": 2.0**30, "sm_util_pct": 50.0}
    latest.update("n1", "GPU-1", sample, time.monotonic(), info)
    latest.note_xid("n1", "GPU-1", 79)
    return latest


def page(latest: LatestSamples, *, dcgm_names: bool) -> str:
    registry = CollectorRegistry()
    registry.register(DeviceCollector(latest, dcgm_names=dcgm_names))
    return generate_latest(registry).decode()


class TestExposition:
    def test_a_page_with_every_metric_has_no_name_and_no_series_twice(self) -> None:
        latest = told()
        latest.update("n1", "GPU-1", dict.fromkeys(NAMES, 1.0), time.monotonic())
        text = page(latest, dcgm_names=True)
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
        assert (len(names), len(series)) == (len(set(names)), len(set(series)))
        families = list(text_string_to_metric_families(text))
        assert len({m.prometheus for m in METRICS} - {f.name for f in families}) == 0
        # An agent that reads another agent's page finds each metric under its own name.
        read = ExporterSource("http://h/metrics", lambda _: page(latest, dcgm_names=False)).sample()["GPU-1"]
        assert set(read) == set(NAMES)

    def test_the_recorders_whole_page_parses_with_every_metric(self) -> None:
        settings = RecorderSettings(
            database_url=SecretStr("postgresql://u@127.0.0.1:1/x"), dcgm_names=True, recorder_device_metrics=True
        )
        app = create_recorder(settings)
        assert isinstance(app, ServiceApp)
        registry = app._service.registry
        [devices] = [c for c in registry._collector_to_names if isinstance(c, DeviceCollector)]
        devices._latest.update("n1", "GPU-1", dict.fromkeys(NAMES, 1.0), time.monotonic())
        text = generate_latest(registry).decode()
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(names) == len(set(names))
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {m.prometheus for m in METRICS} | {m.dcgm for m in METRICS if m.dcgm} <= families

    def test_a_metric_that_stops_leaves_and_slower_ones_stay(self) -> None:
        latest = LatestSamples(1)
        latest.update("n", "g", {"power_w": 1.0, "pcie_width": 16.0}, 0.0)
        latest.update("n", "g", {"temp_c": 1.0}, 40.0)
        assert next(latest.fresh(40.0)).sample == {"pcie_width": 16.0, "temp_c": 1.0}

    def test_our_names_carry_unit_and_node(self) -> None:
        text = page(told(simulated=False), dcgm_names=False)
        labels = '{device="GPU-1",model="NVIDIA H100",node="n1",simulated="false"}'
        assert f"autopilot_device_power_w{labels} 250.0" in text
        assert f"autopilot_device_energy_j_total{labels} 10.0" in text
        assert "DCGM" not in text

    def test_dcgm_names_have_its_units_and_labels(self) -> None:
        text = page(told(), dcgm_names=True)
        labels = (
            'DCGM_FI_DRIVER_VERSION="600",Hostname="n1",UUID="GPU-1",device="nvidia3",gpu="3",'
            'modelName="NVIDIA H100",pci_bus_id="00000000:3B:00.0"'
        )
        lines = {line.split("{")[0]: line for line in text.splitlines() if line.startswith("DCGM_FI")}
        assert all(sorted(line.split("{")[1].split("}")[0].split(",")) == labels.split(",") for line in lines.values())
        values = {name: float(line.rsplit(" ", 1)[1]) for name, line in lines.items()}
        assert values["DCGM_FI_DEV_POWER_USAGE"] == 250.0
        assert values["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"] == 10_000.0
        assert values["DCGM_FI_DEV_FB_USED"] == 1024.0
        assert values["DCGM_FI_PROF_SM_ACTIVE"] == 0.5
        assert values["DCGM_FI_DEV_XID_ERRORS"] == 79.0

    def test_devices_beyond_the_limit_are_counted_not_told(self) -> None:
        latest = LatestSamples(2)
        for number in range(5):
            for _ in range(3):
                latest.update("n", f"g{number}", {"power_w": 1.0}, time.monotonic())
        text = page(latest, dcgm_names=False)
        assert text.count("autopilot_device_power_w{") == 2
        assert "autopilot_devices_not_exported 3.0" in text

    def test_a_silent_device_leaves(self) -> None:
        latest = LatestSamples(1)
        latest.update("n", "old", {"power_w": 1.0}, 0.0)
        latest.update("n", "new", {"power_w": 1.0}, 100.0)
        assert [d.device for d in latest.fresh(100.0)] == ["new"]

    def test_opentelemetry_gets_the_same(self) -> None:
        reader = InMemoryMetricReader()
        provider = start_export(told(), "agent", reader)
        data = reader.get_metrics_data()
        assert data is not None
        metrics = {m.name: m for m in data.resource_metrics[0].scope_metrics[0].metrics}
        point = metrics["autopilot.device.power_w"].data.data_points[0]
        assert (point.value, dict(point.attributes or {})) == (250.0, {"node": "n1", "device": "GPU-1"})
        assert metrics["autopilot.device.energy_j"].unit == "J"
        provider.shutdown()


class TestNodeName:
    def board(self) -> InventoryPublisher:
        bus = Bus(make_broker(ServiceSettings(), "t", CollectorRegistry()))
        return InventoryPublisher(bus, HealthState("agent"))

    def entry(self, seconds: float, epoch_s: float) -> NodeInventory:
        epoch = int(at(epoch_s).timestamp() * 1e6)
        return NodeInventory(node="n1", at=at(seconds), period_s=1.0, devices=[], agent_epoch_us=epoch)

    def test_two_agents_of_one_name_are_told(self) -> None:
        board = self.board()
        board.compare(self.entry(20, 0), self.entry(25, 10))
        assert "AUTOPILOT_NODE" in board.health.ready()[1]["node name"]

    def test_the_run_before_a_restart_is_no_second_agent(self) -> None:
        board = self.board()
        for before, ours in [(self.entry(9, 0), self.entry(15, 10)), (self.entry(20, 10), self.entry(25, 10))]:
            board.compare(before, ours)
        board.compare(None, self.entry(1, 0))
        assert board.conflicts == 0


def test_privilege_is_read_from_the_effective_capabilities(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    assert may_control_power(status)
    status.write_text("CapEff:\t00000000a80425fb\n")
    assert not may_control_power(status)


def test_every_dcgm_name_belongs_to_one_metric() -> None:
    names = [m.dcgm for m in METRICS if m.dcgm]
    assert len(names) == len(set(names))
