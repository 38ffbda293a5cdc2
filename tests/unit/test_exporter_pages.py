"""Metrics pages of exporters: whose devices, which numbers, what happened; dialects, blanks, MIG, several hosts."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.scrape_metrics import PageCollector
from accelerator_autopilot.telemetry.agent.adapters.scrape_page import Page
from accelerator_autopilot.telemetry.agent.domain.plausibility import Plausible
from accelerator_autopilot.telemetry.agent.domain.scrape_readings import PageReading, read_page
from accelerator_autopilot.telemetry.agent.domain.scrape_state import FORGET_AFTER_S, PageDevices, PageXids

UUID = "GPU-5f1c"
BLANKS = {
    "int32": [0x7FFFFFF0 + n for n in range(4)],
    "int64": [0x7FFFFFFFFFFFFFF0 + n for n in range(4)],
    "fp64": [2.0**47 + n for n in range(4)],
}


def line(name: str, value: object, uuid: str = UUID, **labels: str) -> str:
    base = {
        "gpu": "2", "UUID": uuid, "pci_bus_id": "00000000:5E:00.0", "device": "nvidia2", "modelName": "NVIDIA H100",
        "Hostname": "rack-1", "DCGM_FI_DRIVER_VERSION": "580.1",
    }  # fmt: skip
    inside = ",".join(f'{key}="{text}"' for key, text in (base | labels).items())
    return f"{name}{{{inside}}} {value}\n"


def usual(uuid: str = UUID, **labels: str) -> str:
    values = {
        "DCGM_FI_DEV_GPU_UTIL": 97, "DCGM_FI_DEV_POWER_USAGE": 319.068, "DCGM_FI_DEV_GPU_TEMP": 53,
        "DCGM_FI_DEV_MEMORY_TEMP": 59, "DCGM_FI_DEV_FB_USED": 41_046, "DCGM_FI_DEV_FB_FREE": 40_000,
        "DCGM_FI_DEV_XID_ERRORS": 0, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 0,
    }  # fmt: skip
    return "".join(line(name, value, uuid, **labels) for name, value in values.items())


def source_of(*pages: str) -> ExporterSource:
    left = list(pages)
    return ExporterSource("http://h/metrics", lambda _: left.pop(0) if len(left) > 1 else left[0])


def read(text: str) -> PageReading:
    return read_page(Page(text).lines())


class TestIdentity:
    def test_number_address_driver_and_host_are_the_pages_own(self) -> None:
        source = source_of(usual("GPU-z", gpu="0", device="nvidia0") + usual("GPU-a", gpu="7", device="nvidia7"))
        infos = {info.device: info for info in source.discover()}
        assert {name: info.index for name, info in infos.items()} == {"GPU-z": 0, "GPU-a": 7}
        info = infos["GPU-a"]
        assert (info.pci_bus_id, info.driver, info.vendor) == ("00000000:5E:00.0", "580.1", "nvidia")
        assert source.hosts == {"GPU-z": "rack-1", "GPU-a": "rack-1"}
        assert ExporterSource("http://h/m", lambda _: usual(), take_hosts=False).hosts == {}

    def test_without_a_uuid_names_are_of_their_host(self) -> None:
        page = 'dcgm_gpu_temp{gpu="0",Hostname="a"} 40\ndcgm_gpu_temp{gpu="0",Hostname="b"} 50\n'
        source = source_of(page)
        assert {d: s["temp_c"] for d, s in source.sample().items()} == {"a/0": 40.0, "b/0": 50.0}
        assert source.hosts == {"a/0": "a", "b/0": "b"}

    def test_an_address_that_only_some_lines_have_is_taken(self) -> None:
        page = line("DCGM_FI_DEV_GPU_UTIL", 1, pci_bus_id="") + line("DCGM_FI_DEV_GPU_TEMP", 40)
        assert source_of(page).discover()[0].pci_bus_id == "00000000:5E:00.0"

    def test_time_slicing_and_pods_are_one_device(self) -> None:
        page = "".join(usual(pod=f"p{n}", namespace="ns", container="c") for n in range(3))
        assert [d.device for d in source_of(page).discover()] == [UUID]

    def test_switches_links_and_cpus_are_no_devices(self) -> None:
        page = usual() + (
            'DCGM_FI_DEV_NVSWITCH_FATAL_ERRORS{nvswitch="nvswitch0",Hostname="h"} 20034\n'
            'DCGM_FI_DEV_CPU_UTIL_TOTAL{cpu="0",Hostname="h"} 0.1\n'
            'DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{nvlink="1",nvswitch="nvswitch0",Hostname="h"} 4\n'
        )
        assert list(source_of(page).sample()) == [UUID]


class TestValues:
    @pytest.mark.parametrize("blank", [n for kind in BLANKS.values() for n in kind])
    @pytest.mark.parametrize(
        "name", ["DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_FB_USED", "DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_DEV_XID_ERRORS",
                 "DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "dcgm_gpu_temp"],
    )  # fmt: skip
    def test_a_blank_of_any_type_is_no_reading(self, name: str, blank: float) -> None:
        for text in (repr(blank), f"{blank:e}" if blank > 2.0**48 else str(blank)):
            reading = read(line(name, text))
            assert reading.samples == {UUID: {}}
            assert reading.xids == {}

    @pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "Inf", "1e400"])
    def test_what_is_not_finite_never_passes(self, text: str) -> None:
        assert "power_w" not in source_of(usual() + line("DCGM_FI_DEV_POWER_USAGE", text, "GPU-b")).sample()["GPU-b"]

    @pytest.mark.parametrize("bad", ["N/A", "", "[N/A]", "<nil>", "ERROR"])
    def test_one_bad_line_costs_one_line_also_at_the_start(self, bad: str) -> None:
        source = source_of(line("DCGM_FI_DEV_POWER_USAGE", bad) + usual("GPU-b"))
        assert [d.device for d in source.discover()] == ["GPU-b"]
        assert source.bad_lines == 1

    def test_memory_heat_of_zero_is_unknown_until_it_was_another(self) -> None:
        zero, warm = (usual().replace("MEMORY_TEMP", "X") + line("DCGM_FI_DEV_MEMORY_TEMP", n) for n in (0, 60))
        source = source_of(zero, warm, zero)
        told = [source.sample()[UUID].get("temp_mem_c") for _ in range(3)]
        assert told == [None, 60.0, 0.0]

    @pytest.mark.parametrize(("reserved", "total_mib"), [(None, 81_046), (512, 81_558)])
    def test_the_total_of_memory_follows_from_its_parts(self, reserved: int | None, total_mib: int) -> None:
        more = line("DCGM_FI_DEV_FB_RESERVED", reserved) if reserved else ""
        source = source_of(usual() + more)
        assert source.sample()[UUID]["memory_total_bytes"] == total_mib * 2**20
        assert source.discover()[0].memory_bytes == total_mib * 2**20

    def test_a_total_that_is_told_is_kept(self) -> None:
        assert (
            source_of(usual() + line("DCGM_FI_DEV_FB_TOTAL", 81_920)).sample()[UUID]["memory_total_bytes"] == 80 * 2**30
        )

    @pytest.mark.parametrize("name", ["DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS"])
    def test_old_and_new_names_of_throttling(self, name: str) -> None:
        sample = source_of(usual() + line(name, 72) + line("DCGM_FI_DEV_ROW_REMAP_PENDING", 1)).sample()[UUID]
        assert (sample["clock_event_reasons"], sample["row_remap_pending"]) == (72.0, 1.0)

    def test_throttling_in_nanoseconds(self) -> None:
        assert source_of(line("DCGM_FI_DEV_POWER_VIOLATION", 5e9)).sample()[UUID]["throttle_power_s"] == 5.0

    @pytest.mark.parametrize(("told", "kept"), [(0.5, 50.0), (1.17, 100.0), (1.5, 100.0), (42.0, 4200.0)])
    def test_a_share_a_little_above_the_whole_is_the_whole(self, told: float, kept: float) -> None:
        sample = source_of(line("DCGM_FI_PROF_GR_ENGINE_ACTIVE", told, GPU_I_ID="1")).sample()[f"{UUID}/1"]
        assert sample["engine_util_pct"] == pytest.approx(kept), "far above is left for detection to tell"


def instances(*numbers: int, uuid: str = UUID) -> str:
    return "".join(usual(uuid, GPU_I_ID=str(n), GPU_I_PROFILE="1g.10gb") for n in numbers)

    def test_a_metric_that_one_card_lacks_has_failed_and_one_that_all_lack_is_not_told_any_more(self) -> None:
        def without(name: str, *uuids: str) -> str:
            lines = (usual("GPU-a", gpu="0") + usual("GPU-b", gpu="1")).splitlines(keepends=True)
            return "".join(text for text in lines if name not in text or not any(u in text for u in uuids))

        both = without("POWER_USAGE")
        source = source_of(both, without("POWER_USAGE", "GPU-a"), without("POWER_USAGE", "GPU-a", "GPU-b"))
        errors = [{d: s["read_errors"] for d, s in source.sample().items()} for _ in range(3)]
        assert errors == [{"GPU-a": 0.0, "GPU-b": 0.0}, {"GPU-a": 1.0, "GPU-b": 0.0}, {"GPU-a": 0.0, "GPU-b": 0.0}]


class TestMig:
    def test_instances_have_the_gpu_as_parent_and_its_number(self) -> None:
        infos = {i.device: i for i in source_of(instances(7, 13)).discover()}
        assert list(infos) == [UUID, f"{UUID}/13", f"{UUID}/7"]
        one = infos[f"{UUID}/13"]
        assert (one.parent, one.index, one.mig_instance, one.mig_profile) == (UUID, 2, 13, "1g.10gb")
        assert (infos[UUID].parent, infos[UUID].index, infos[UUID].mig_instance) == (None, 2, None)

    def test_what_is_the_boards_is_told_once_of_the_board(self) -> None:
        samples = source_of(instances(1, 2)).sample()
        assert samples[UUID]["power_w"] == 319.068
        assert sum("power_w" in sample for sample in samples.values()) == 1
        assert samples[f"{UUID}/1"]["memory_used_bytes"] == 41_046 * 2**20
        assert samples[UUID]["memory_used_bytes"] == 2 * 41_046 * 2**20, "the board's memory is that of its parts"

    def test_its_own_lines_go_before_what_instances_repeat(self) -> None:
        page = line("DCGM_FI_DEV_POWER_USAGE", 400) + instances(1)
        assert source_of(page).sample()[UUID]["power_w"] == 400.0

    def test_instances_that_a_new_layout_lacks_are_forgotten_at_once(self) -> None:
        source = source_of(instances(1, 2), instances(7, 8, 9), usual())
        source.sample()
        assert len(source.discover()) == 3
        source.sample()
        assert [i.device for i in source.discover()] == [UUID, *(f"{UUID}/{n}" for n in (7, 8, 9))]
        source.sample()
        assert [i.device for i in source.discover()] == [UUID]


class TestForgetting:
    def devices(self, *pages: tuple[float, str]) -> list[str]:
        known = PageDevices()
        for now_s, text in pages:
            known.take(read(text), now_s)
        return list(known.infos)

    def test_a_card_that_left_may_be_broken_and_stays(self) -> None:
        two = usual("GPU-a", gpu="0", pci_bus_id="0:1:0.0") + usual("GPU-b", gpu="1", pci_bus_id="0:2:0.0")
        one = usual("GPU-a", gpu="0", pci_bus_id="0:1:0.0")
        assert self.devices((0, two), (3600, one)) == ["GPU-a", "GPU-b"]
        assert self.devices((0, two), (FORGET_AFTER_S + 1, one)) == ["GPU-a"]

    def test_one_whose_place_another_has_was_replaced(self) -> None:
        assert self.devices((0, usual("GPU-a")), (60, usual("GPU-new"))) == ["GPU-new"]
        assert self.devices((0, instances(1, uuid="GPU-a")), (60, usual("GPU-new"))) == ["GPU-new"]
        other_host = usual("GPU-new", Hostname="rack-2")
        assert self.devices((0, usual("GPU-a")), (60, other_host)) == ["GPU-a", "GPU-new"]


class TestXids:
    def told(self, *pages: str) -> list[list[tuple[str, int | None]]]:
        xids = PageXids()
        return [[(e.device, e.code) for e in xids.take(read(page))] for page in pages]

    def page(self, code: int, *counts: tuple[int, int], uuid: str = UUID) -> str:
        text = line("DCGM_FI_DEV_XID_ERRORS", code, uuid)
        return text + "".join(
            line("DCGM_EXP_XID_ERRORS_COUNT", n, uuid, xid=str(xid), window_size_in_ms="300000") for xid, n in counts
        )

    def test_a_change_to_a_code_is_an_event_and_what_was_there_before_is_none(self) -> None:
        pages = [self.page(code) for code in (0, 79, 79, 0, 79, 31)]
        assert self.told(*pages) == [[], [(UUID, 79)], [], [], [(UUID, 79)], [(UUID, 31)]]
        assert self.told(self.page(79), self.page(79)) == [[], []]

    def test_a_code_on_a_card_that_told_none_before(self) -> None:
        assert self.told(line("DCGM_FI_DEV_GPU_TEMP", 40), self.page(48)) == [[], [(UUID, 48)]]

    def test_each_growth_of_a_count_is_an_event_and_one_that_both_tell_is_one(self) -> None:
        pages = [
            self.page(0), self.page(79, (79, 1)), self.page(79, (79, 3)), self.page(79, (79, 1)), self.page(79),
            self.page(79, (79, 1), (31, 2)),
        ]  # fmt: skip
        grown = self.told(*pages)
        assert [len(events) for events in grown] == [0, 1, 2, 0, 0, 3]

    def test_xids_of_instances_are_the_boards_once(self) -> None:
        before, after = (
            "".join(line("DCGM_FI_DEV_XID_ERRORS", code, GPU_I_ID=str(n)) for n in (1, 2)) for code in (0, 94)
        )
        assert self.told(before, after) == [[], [(UUID, 94)]]

    @pytest.mark.parametrize("page", [
        line("DCGM_FI_DEV_XID_ERRORS", -5), line("DCGM_FI_DEV_XID_ERRORS", 1e12),
        line("DCGM_EXP_XID_ERRORS_COUNT", 5, xid="²"), line("DCGM_EXP_XID_ERRORS_COUNT", 5, xid="9" * 12),
        line("DCGM_EXP_XID_ERRORS_COUNT", 5, xid="x"), line("DCGM_FI_DEV_GPU_TEMP", 40, GPU_I_ID="9" * 30),
        line("DCGM_FI_DEV_GPU_TEMP", 40, gpu="9" * 30, GPU_I_ID="²"),
    ])  # fmt: skip
    def test_odd_numbers_are_none(self, page: str) -> None:
        source = source_of(usual(), usual() + page)
        source.discover()
        source.sample()
        assert (source.poll_events(), source.discover()[0].device) == ([], UUID)

    def test_a_leap_of_a_count_is_bounded(self) -> None:
        events = self.told(self.page(0), self.page(31, (31, 10**9)))
        assert len(events[1]) == 100

    def test_a_blank_keeps_what_was_known(self) -> None:
        assert self.told(self.page(79), self.page(2**31 - 16), self.page(79)) == [[], [], []]


SMI = """
nvidia_smi_gpu_info{driver_version="580.1",name="NVIDIA GeForce RTX 4090",uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa",vbios_version="90"} 1
nvidia_smi_index{uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"} 3
nvidia_smi_power_draw_watts{uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"} 28.07
nvidia_smi_utilization_gpu_ratio{uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"} 0.42
nvidia_smi_clocks_current_sm_clock_hz{uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"} 1.41e+09
nvidia_smi_memory_used_bytes{uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"} 7e+08
nvidia_smi_compute_mode{uuid="df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"} 0
"""  # noqa: E501  a recorded page
AMD = """
gpu_package_power{gpu_id="1",card_model="Instinct MI300X",serial_number="SN-1",hostname="node-a"} 748
gpu_energy_consumed{gpu_id="1",card_model="Instinct MI300X",serial_number="SN-1",hostname="node-a"} 1.4e17
gpu_used_vram{gpu_id="1",card_model="Instinct MI300X",serial_number="SN-1",hostname="node-a"} 1024
gpu_junction_temperature{gpu_id="1",card_model="Instinct MI300X",serial_number="SN-1",hostname="node-a"} 65535
gpu_clock{gpu_id="1",serial_number="SN-1",hostname="node-a",clock_type="GPU_CLOCK_TYPE_MEMORY",clock_index="8"} 1292
gpu_clock{gpu_id="1",serial_number="SN-1",hostname="node-a",clock_type="GPU_CLOCK_TYPE_SYSTEM"} 1533
gpu_gfx_activity{gpu_id="1",serial_number="SN-1",hostname="node-a",partition_id="3"} 97
"""
OLD = """
dcgm_gpu_temp{gpu="1",uuid="GPU-8f64"} 34
dcgm_power_usage{gpu="1",uuid="GPU-8f64"} 70.5
dcgm_total_energy_consumption{gpu="1",uuid="GPU-8f64"} 5000
dcgm_power_violation{gpu="1",uuid="GPU-8f64"} 2000000
dcgm_fb_used{gpu="1",uuid="GPU-8f64"} 10
dcgm_fb_free{gpu="1",uuid="GPU-8f64"} 30
"""
MINDPRINCE = 'nvidia_gpu_power_usage_milliwatts{minor_number="4",name="T4",uuid="GPU-m"} 70000\n'


class TestDialects:
    def test_nvidia_gpu_exporter(self) -> None:
        source = source_of(SMI)
        name = "GPU-df6e7a7c-7314-46f8-abc4-b88b36dcf3aa"
        [info] = source.discover()
        assert (info.device, info.index, info.model, info.driver) == (name, 3, "NVIDIA GeForce RTX 4090", "580.1")
        sample = source.sample()[name]
        assert (sample["power_w"], sample["gpu_util_pct"], sample["clock_sm_mhz"]) == (28.07, 42.0, 1410.0)
        assert (sample["memory_used_bytes"], source.unknown_lines) == (7e8, 1)

    @pytest.mark.parametrize("rename", [str, lambda t: t.replace("gpu_p", "amd_gpu_p"), lambda t: t.replace(
        "gpu_package_power", "GPU_PACKAGE_POWER")])  # fmt: skip
    def test_amds_exporter(self, rename: Callable[[str], str]) -> None:
        source = source_of(rename(AMD))
        samples = source.sample()
        sample = samples["SN-1"]
        assert (sample["power_w"], sample["energy_j"], sample["memory_used_bytes"]) == (748.0, 1.4e11, 2.0**30)
        assert (sample["clock_sm_mhz"], sample["clock_mem_mhz"]) == (1533.0, 1292.0)
        assert "temp_c" not in sample, "all ones are no temperature"
        assert samples["SN-1/3"]["gpu_util_pct"] == 97.0
        info = next(i for i in source.discover() if i.device == "SN-1")
        assert (info.index, info.vendor, info.model, source.hosts["SN-1"]) == (1, "amd", "Instinct MI300X", "node-a")

    def test_dcgm_exporter_1(self) -> None:
        source = source_of(OLD)
        sample = source.sample()["GPU-8f64"]
        assert (sample["power_w"], sample["energy_j"], sample["throttle_power_s"]) == (70.5, 5.0, 2.0)
        assert (sample["memory_total_bytes"], source.discover()[0].index) == (40 * 2.0**20, 1)

    def test_the_old_prometheus_exporter(self) -> None:
        source = source_of(MINDPRINCE)
        assert source.sample()["GPU-m"]["power_w"] == 70.0
        assert (source.discover()[0].index, source.discover()[0].model) == (4, "T4")

    def test_a_page_that_nobody_understands_is_named(self) -> None:
        page = 'go_threads 7\nwindows_gpu_info{luid="1"} 1\nall_smi_gpu_power{gpu="0"} 5\n'
        source = source_of(page)
        with pytest.raises(UnavailableError, match=r"all_smi_gpu_power, windows_gpu_info.*dcgm-exporter"):
            source.discover()
        assert source.unknown_lines == 2

    @pytest.mark.parametrize("page", ["", "# nothing yet\n", "go_threads 7\nprocess_cpu_seconds_total 1\n"])
    def test_one_that_tells_only_of_the_exporter_is_just_empty(self, page: str) -> None:
        assert source_of(page).discover() == []


def test_shares_and_zeros_of_any_source_are_judged_alike() -> None:
    plausible = Plausible()
    assert plausible.of("g", {"temp_mem_c": 0.0, "dram_util_pct": 101.0, "power_w": 0.0}) == {
        "dram_util_pct": 100.0, "power_w": 0.0,
    }  # fmt: skip
    assert math.isclose(plausible.of("g", {"temp_mem_c": 40.0})["temp_mem_c"], 40.0)
    assert plausible.of("g", {"temp_mem_c": 0.0}) == {"temp_mem_c": 0.0}


def test_what_is_not_understood_is_counted_on_the_agents_own_page() -> None:
    source = source_of(usual() + "nonsense\n" + line("DCGM_FI_DEV_UNHEARD_OF", 1))
    source.sample()
    registry = CollectorRegistry()
    registry.register(PageCollector([source]))
    text = generate_latest(registry).decode()
    assert 'autopilot_scrape_lines_bad_total{source="scrape http://h/metrics"} 1.0' in text
    assert 'autopilot_scrape_lines_unknown{source="scrape http://h/metrics"} 1.0' in text
