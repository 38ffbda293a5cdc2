"""The NVML source on a driver in memory: what is read when, what is given up, events, instances, actuators."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.telemetry.agent.adapters.nvml import NvmlSource
from accelerator_autopilot.telemetry.agent.adapters.nvml import source as source_module
from accelerator_autopilot.telemetry.errors import PowerControlError
from tests.support.fake_nvml import UUID, FakeNvml


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(source_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_gpu_is_described_by_what_it_tells(driver: FakeNvml) -> None:
    info = NvmlSource().discover()[0]
    assert (info.device, info.model, info.power_max_w, info.clock_max_sm_mhz) == (UUID, "Test GPU", 300.0, 1980)
    assert (info.pci_bus_id, info.mig_mode, info.parent, info.links) == ("00000000:3B:00.0", None, None, [])


def test_what_is_not_supported_is_asked_once(driver: FakeNvml) -> None:
    source = NvmlSource()
    source.discover()
    for _ in range(6):
        sample = source.sample()[UUID]
    assert sample["power_w"] == pytest.approx(123.4)
    assert "memory_used_bytes" not in sample
    assert driver.calls["nvmlDeviceGetUtilizationRates"] == 1
    assert driver.calls["nvmlDeviceGetPowerUsage"] == 6


def test_slow_readings_keep_their_own_periods(driver: FakeNvml, clock: list[float]) -> None:
    driver.answers["nvmlDeviceGetPerformanceState"] = 0
    driver.answers["nvmlDeviceGetCurrPcieLinkWidth"] = 16
    source = NvmlSource()
    source.discover()
    for second in range(61):
        clock[0] = 1000.0 + second
        source.sample()
    assert driver.calls["nvmlDeviceGetPowerUsage"] == 61
    assert driver.calls["nvmlDeviceGetPerformanceState"] == 7
    assert driver.calls["nvmlDeviceGetCurrPcieLinkWidth"] == 2


def test_fields_are_read_in_one_call_a_rate(driver: FakeNvml, clock: list[float]) -> None:
    driver.fields = {
        pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: 5_000_000, pynvml.NVML_FI_DEV_MEMORY_TEMP: 71,
        pynvml.NVML_FI_DEV_PERF_POLICY_POWER: 2e9, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: 4,
        pynvml.NVML_FI_DEV_PCIE_COUNT_BAD_TLP: 3,
    }  # fmt: skip
    source = NvmlSource()
    source.discover()
    before = driver.calls["nvmlDeviceGetFieldValues"]
    sample = source.sample()[UUID]
    assert (sample["energy_j"], sample["temp_mem_c"], sample["throttle_power_s"]) == (5000.0, 71.0, 2.0)
    assert (sample["recovery_action"], sample["pcie_bad_tlp"]) == (4.0, 3.0)
    assert driver.calls["nvmlDeviceGetFieldValues"] == before + 3
    clock[0] += 1
    source.sample()
    assert driver.calls["nvmlDeviceGetFieldValues"] == before + 4


def test_power_between_two_ticks_is_integrated_at_the_sensors_own_rate(driver: FakeNvml, clock: list[float]) -> None:
    readings = [SimpleNamespace(timeStamp=i * 100_000, sampleValue=SimpleNamespace(dVal=w)) for i, w in
                enumerate([100e3, 300e3, 100e3])]  # fmt: skip
    driver.answers["nvmlDeviceGetSamples"] = lambda *_: (pynvml.NVML_VALUE_TYPE_DOUBLE, readings)
    source = NvmlSource()
    source.discover()
    assert source.sample()[UUID]["energy_j"] == pytest.approx(40.0)
    clock[0] += 1
    assert source.sample()[UUID]["energy_j"] == pytest.approx(40.0)


def test_a_lost_gpu_has_no_sample_rather_than_zeros(driver: FakeNvml) -> None:
    source = NvmlSource()
    source.discover()
    driver.error = pynvml.NVML_ERROR_GPU_IS_LOST
    assert source.sample() == {}


def test_a_reloaded_driver_is_taken_up_again(driver: FakeNvml) -> None:
    source = NvmlSource()
    source.discover()
    driver.error = pynvml.NVML_ERROR_UNINITIALIZED
    assert source.sample() == {}
    driver.error = None
    source.discover()
    assert source.sample()[UUID]["temp_c"] == 61.0
    assert driver.calls["nvmlInit"] >= 2


def test_a_driver_that_is_gone_at_discovery_is_unavailable_and_comes_back(driver: FakeNvml) -> None:
    source = NvmlSource()
    driver.error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    with pytest.raises(UnavailableError, match="cannot list devices"):
        source.discover()
    driver.error = None
    assert [info.device for info in source.discover()] == [UUID]


def test_a_passing_error_is_counted_and_asked_again(driver: FakeNvml) -> None:
    def fail(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    source = NvmlSource()
    source.discover()
    driver.answers["nvmlDeviceGetTemperature"] = fail
    assert source.sample()[UUID]["read_errors"] == 1.0
    assert source.errors["temperature", pynvml.NVML_ERROR_UNKNOWN] == 1
    driver.answers["nvmlDeviceGetTemperature"] = 62
    assert source.sample()[UUID]["temp_c"] == 62.0


def test_each_event_is_told_once(driver: FakeNvml) -> None:
    driver.events = [(0x8, 79), (0x8, 79), (0x8000, 2)]
    source = NvmlSource()
    source.discover()
    assert [(e.device, e.kind, e.code) for e in source.poll_events()] == [
        (UUID, "xid", 79), (UUID, "xid", 79), (UUID, "recovery_action", 2),
    ]  # fmt: skip
    assert source.poll_events() == []


def test_instances_of_mig_are_devices_with_a_parent(driver: FakeNvml) -> None:
    def instance(_: object, number: int) -> str:
        if number > 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"MIG-{number}"

    driver.answers |= {
        "nvmlDeviceGetMigMode": (1, 1),
        "nvmlDeviceGetMaxMigDeviceCount": 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": instance,
        "nvmlDeviceGetMemoryInfo": lambda handle, version=None: SimpleNamespace(used=1, total=10, free=9, reserved=0),
    }
    source = NvmlSource()
    found = {info.device: info for info in source.discover()}
    assert list(found) == [UUID, "MIG-0", "MIG-1"]
    assert found["MIG-0"].parent == UUID
    assert not found["MIG-0"].can_cap
    assert source.sample()["MIG-1"]["memory_total_bytes"] == 10.0


def test_links_are_read_one_by_one(driver: FakeNvml) -> None:
    driver.fields = {pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT: 3, pynvml.NVML_FI_DEV_NVLINK_GET_SPEED: 26562,
                     pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES: 1000}  # fmt: skip
    driver.answers |= {
        "nvmlDeviceGetNvLinkState": lambda _, link: int(link != 1),
        "nvmlDeviceGetNvLinkErrorCounter": lambda _, link, counter: 2 * link,
    }
    source = NvmlSource()
    links = source.discover()[0].links
    assert [(n.link, n.active, n.errors, n.speed_mbps) for n in links] == [
        (0, True, 0, 26562.0), (1, False, 8, 26562.0), (2, True, 16, 26562.0),
    ]  # fmt: skip
    sample = source.sample()[UUID]
    assert (sample["nvlink_active"], sample["nvlink_replay_errors"], sample["nvlink_tx_bytes"]) == (2.0, 6.0, 3000.0)


def test_gpm_gives_means_between_two_samples_and_adds_transfers_up(driver: FakeNvml, clock: list[float]) -> None:
    def measure(request: Any) -> None:
        values = {1: 90.0, 2: 80.0, 3: 40.0, 5: 30.0, 10: 20.0, 60: 8.0, 61: 4.0}
        for i in range(request.numMetrics):
            answer = request.metrics[i]
            answer.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED if answer.metricId == 10 else pynvml.NVML_SUCCESS
            answer.value = values[answer.metricId]

    driver.answers |= {
        "nvmlGpmQueryDeviceSupport": SimpleNamespace(isSupportedDevice=1),
        "nvmlGpmSampleAlloc": pynvml.c_nvmlGpmSample_t,
        "nvmlGpmSampleGet": None,
        "nvmlGpmMetricsGet": measure,
    }
    source = NvmlSource()
    source.discover()
    assert "sm_util_pct" not in source.sample()[UUID]
    clock[0] += 2.0
    sample = source.sample()[UUID]
    assert (sample["sm_util_pct"], sample["engine_util_pct"], sample["tensor_util_pct"]) == (80.0, 90.0, 30.0)
    assert "dram_util_pct" not in sample
    assert sample["nvlink_rx_bytes"] == 16 * 2**20
    clock[0] += 1.0
    assert source.sample()[UUID]["nvlink_rx_bytes"] == 24 * 2**20


def test_a_cap_is_set_and_both_limits_read_back(driver: FakeNvml) -> None:
    driver.answers["nvmlDeviceGetEnforcedPowerLimit"] = 170_000
    source = NvmlSource()
    source.set_cap_w(UUID, 180.0)
    assert (source.applied_cap_w(UUID), source.enforced_cap_w(UUID)) == (180.0, 170.0)


def test_a_cap_is_not_written_to_another_device(driver: FakeNvml) -> None:
    driver.answers["nvmlDeviceGetUUID"] = b"GPU-other"
    with pytest.raises(PowerControlError, match="another device"):
        NvmlSource().set_cap_w(UUID, 180.0)
    assert driver.calls["nvmlDeviceSetPowerManagementLimit"] == 0


def test_without_privilege_the_error_says_so(driver: FakeNvml) -> None:
    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    driver.answers["nvmlDeviceSetPowerManagementLimit"] = refuse
    with pytest.raises(PowerControlError, match="root"):
        NvmlSource().set_cap_w(UUID, 180.0)


def test_clocks_are_locked_and_given_back(driver: FakeNvml) -> None:
    source = NvmlSource()
    source.lock_clock_mhz(UUID, 1200.0)
    assert driver.locked == (345, 1200)
    source.lock_clock_mhz(UUID, None)
    assert driver.locked is None


def lost(*_: object, **__: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


def refused(*_: object, **__: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)


@pytest.mark.parametrize("call", ["nvmlDeviceGetFanSpeed_v2", "nvmlDeviceGetFieldValues", "nvmlDeviceGetPciInfo"])
def test_what_one_reading_does_not_accept_costs_that_reading(driver: FakeNvml, call: str) -> None:
    driver.answers[call] = refused
    source = NvmlSource()
    source.discover()
    assert source.sample()[UUID]["temp_c"] == 61.0


def test_a_reading_that_once_answered_is_asked_again(driver: FakeNvml) -> None:
    source = NvmlSource()
    source.discover()
    source.sample()
    driver.answers["nvmlDeviceGetTemperature"] = refused
    assert "temp_c" not in source.sample()[UUID]
    driver.answers["nvmlDeviceGetTemperature"] = 62
    assert source.sample()[UUID]["temp_c"] == 62.0


@pytest.mark.parametrize("call", ["nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMaxMigDeviceCount"])
@pytest.mark.parametrize("fault", [lost, lambda *_: 1 / 0])
def test_a_bad_card_ends_no_discovery(driver: FakeNvml, call: str, fault: Any) -> None:
    source = NvmlSource()
    source.discover()
    driver.answers |= {call: fault, "nvmlDeviceGetMigMode": (1, 1)}
    source.discover()
    assert source.sample()[UUID]["temp_c"] == 61.0


def test_the_xid_of_a_lost_gpu_finds_its_device(driver: FakeNvml) -> None:
    source = NvmlSource()
    source.discover()
    driver.answers["nvmlDeviceGetUUID"] = lost
    driver.events = [(0x8, 79)]
    assert [(e.device, e.code) for e in source.poll_events()] == [(UUID, 79)]


def test_a_recovery_action_that_is_taken_back_tells_of_a_reset(driver: FakeNvml, clock: list[float]) -> None:
    source = NvmlSource()
    source.discover()
    for action in (1, 0):
        driver.fields = {pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: action}
        clock[0] += 10
        source.sample()
    assert [e.kind for e in source.poll_events()] == ["reset"]


def test_no_driver_is_one_clear_error(driver: FakeNvml) -> None:
    del driver.answers["nvmlInit"]
    with pytest.raises(UnavailableError, match="NVML"):
        NvmlSource()
