"""CPUs and cards that the kernel tells of: sysfs, RAPL, /proc."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accelerator_autopilot.telemetry.agent.adapters import cpu as cpu_module
from accelerator_autopilot.telemetry.agent.adapters.cpu import CpuSource
from accelerator_autopilot.telemetry.agent.adapters.sysfs_gpu import SysfsSource
from accelerator_autopilot.telemetry.errors import PowerControlError
from tests.support.trees import plant

TWO_PACKAGES: dict[str, str | int] = {
    "devices/system/cpu/cpu0/topology/physical_package_id": 0,
    "devices/system/cpu/cpu1/topology/physical_package_id": 1,
    "class/powercap/intel-rapl:0/name": "package-0",
    "class/powercap/intel-rapl:0/energy_uj": 9_000_000,
    "class/powercap/intel-rapl:0/max_energy_range_uj": 10_000_000,
    "class/powercap/intel-rapl:0:0/name": "dram",
    "class/powercap/intel-rapl:0:0/energy_uj": 1,
    "class/powercap/intel-rapl:1/name": "package-1",
    "class/powercap/intel-rapl:1/energy_uj": 0,
    "class/powercap/intel-rapl:1/max_energy_range_uj": 10_000_000,
    "class/hwmon/hwmon0/name": "acpitz",
    "class/hwmon/hwmon1/name": "coretemp",
    "class/hwmon/hwmon1/temp1_input": 55_000,
    "class/hwmon/hwmon1/temp1_crit": 100_000,
    "class/hwmon/hwmon2/name": "coretemp",
    "class/hwmon/hwmon2/temp1_input": 66_000,
}


MI300: dict[str, str | int] = {
    "class/drm/card1/device/vendor": "0x1002",
    "class/drm/card1/device/device": "0x74a1",
    "class/drm/card1/device/unique_id": "b5a4",
    "class/drm/card1/device/uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:05:00.0",
    "class/drm/card1/device/gpu_busy_percent": 87,
    "class/drm/card1/device/mem_busy_percent": 41,
    "class/drm/card1/device/mem_info_vram_total": 206_141_652_992,
    "class/drm/card1/device/mem_info_vram_used": 12_582_912,
    "class/drm/card1/device/hwmon/hwmon4/power1_input": 612_000_000,
    "class/drm/card1/device/hwmon/hwmon4/power1_cap": 750_000_000,
    "class/drm/card1/device/hwmon/hwmon4/power1_cap_min": 0,
    "class/drm/card1/device/hwmon/hwmon4/power1_cap_max": 750_000_000,
    "class/drm/card1/device/hwmon/hwmon4/power1_cap_default": 750_000_000,
    "class/drm/card1/device/hwmon/hwmon4/temp1_input": 61_000,
    "class/drm/card1/device/hwmon/hwmon4/temp3_input": 52_000,
    "class/drm/card1/device/hwmon/hwmon4/temp3_label": "mem",
    "class/drm/card1/device/hwmon/hwmon4/freq1_input": 2_100_000_000,
    "class/drm/card1/device/hwmon/hwmon4/freq1_label": "sclk",
    "class/drm/card1/device/hwmon/hwmon4/pwm1": 128,
    "class/drm/card1-DP-1/status": "connected",
    "class/drm/card0/device/vendor": "0x10de",
}


ARC_AND_NPU: dict[str, str | int] = {
    "class/drm/card0/device/vendor": "0x8086",
    "class/drm/card0/device/device": "0x56a0",
    "class/drm/card0/device/uevent": "DRIVER=i915\nPCI_SLOT_NAME=0000:03:00.0",
    "class/drm/card0/gt_cur_freq_mhz": 2050,
    "class/drm/card0/device/hwmon/hwmon2/energy1_input": 5_000_000,
    "class/drm/card0/device/hwmon/hwmon2/power1_max": 190_000_000,
    "class/accel/accel0/device/vendor": "0x8086",
    "class/accel/accel0/device/uevent": "DRIVER=intel_vpu\nPCI_SLOT_NAME=0000:00:0b.0",
    "class/accel/accel0/device/npu_busy_time_us": 1_000_000,
    "class/accel/accel0/device/npu_memory_utilization": 4096,
    "class/accel/accel0/device/npu_current_frequency_mhz": 1400,
}


class TestCpu:
    def test_each_package_is_a_device_with_its_own_energy_and_heat(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(cpu_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
        source = CpuSource(plant(tmp_path, TWO_PACKAGES))
        assert [d.device for d in source.discover()] == ["cpu-0", "cpu-1"]
        source.sample()
        now[0] = 2.0
        plant(tmp_path, {"class/powercap/intel-rapl:0/energy_uj": 1_000_000})
        samples = source.sample()
        # The counter went past its end: 1 J before, 1 J since.
        assert (samples["cpu-0"]["energy_j"], samples["cpu-0"]["power_w"]) == (pytest.approx(2.0), pytest.approx(1.0))
        assert (samples["cpu-0"]["temp_c"], samples["cpu-1"]["temp_c"]) == (55.0, 66.0)
        assert samples["cpu-0"]["temp_slowdown_c"] == 100.0

    def test_clocks_that_cannot_be_read_cost_the_clocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(**_: Any) -> Any:
            raise FileNotFoundError("scaling_cur_freq")

        monkeypatch.setattr(cpu_module.psutil, "cpu_freq", broken)
        sample = CpuSource(tmp_path).sample()["cpu-0"]
        assert sample["memory_total_bytes"] > 0
        assert "clock_sm_mhz" not in sample

    def test_without_topology_the_machine_is_one_device(self, tmp_path: Path) -> None:
        samples = CpuSource(tmp_path).sample()
        assert list(samples) == ["cpu-0"]
        assert samples["cpu-0"]["memory_total_bytes"] > 0
        assert "energy_j" not in samples["cpu-0"]


class TestSysfs:
    def test_an_amd_gpu_is_read_and_others_are_left_to_nvml(self, tmp_path: Path) -> None:
        source = SysfsSource(plant(tmp_path, MI300))
        info = source.discover()[0]
        assert (info.device, info.vendor, info.driver, info.power_max_w) == ("amd-gpu-b5a4", "amd", "amdgpu", 750.0)
        assert info.can_cap
        sample = source.sample()["amd-gpu-b5a4"]
        assert (sample["gpu_util_pct"], sample["power_w"], sample["power_cap_w"]) == (87.0, 612.0, 750.0)
        assert (sample["temp_c"], sample["temp_mem_c"], sample["clock_sm_mhz"]) == (61.0, 52.0, 2100.0)
        assert sample["fan_pct"] == pytest.approx(50.2, abs=0.1)

    def test_a_card_that_tells_nothing_for_a_while_is_not_lost(self, tmp_path: Path) -> None:
        source = SysfsSource(plant(tmp_path, MI300))
        source.discover()
        source.sample()
        device = tmp_path / "class/drm/card1/device"
        for file in [f for f in device.rglob("*") if f.is_file()]:
            file.write_text("")
        assert source.sample()["amd-gpu-b5a4"]["read_errors"] == 1.0
        shutil.rmtree(device)
        assert source.sample() == {}, "this one is gone"

    def test_its_cap_is_written_in_microwatts_and_read_back(self, tmp_path: Path) -> None:
        source = SysfsSource(plant(tmp_path, MI300))
        source.discover()
        source.set_cap_w("amd-gpu-b5a4", 500.0)
        assert (tmp_path / "class/drm/card1/device/hwmon/hwmon4/power1_cap").read_text() == "500000000"
        assert source.applied_cap_w("amd-gpu-b5a4") == source.enforced_cap_w("amd-gpu-b5a4") == 500.0
        with pytest.raises(PowerControlError, match="does not exist"):
            source.set_cap_w("amd-gpu-x", 500.0)

    def test_intel_gpu_and_npu_give_power_and_load_from_their_counters(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from accelerator_autopilot.telemetry.agent.adapters import sysfs_gpu

        now = [10.0]
        monkeypatch.setattr(sysfs_gpu, "time", SimpleNamespace(monotonic=lambda: now[0]))
        source = SysfsSource(plant(tmp_path, ARC_AND_NPU))
        gpu, npu = (info.device for info in source.discover())
        assert (gpu, npu) == ("intel-gpu-0000:03:00.0", "intel-npu-0000:00:0b.0")
        first = source.sample()
        assert first[gpu]["energy_j"] == 5.0
        assert "power_w" not in first[gpu]
        plant(tmp_path, {"class/drm/card0/device/hwmon/hwmon2/energy1_input": 305_000_000,
                         "class/accel/accel0/device/npu_busy_time_us": 1_500_000})  # fmt: skip
        now[0] = 12.0
        second = source.sample()
        assert (second[gpu]["power_w"], second[gpu]["clock_graphics_mhz"]) == (pytest.approx(150.0), 2050.0)
        assert second[npu]["gpu_util_pct"] == pytest.approx(25.0)

    def test_a_card_that_is_gone_has_no_sample(self, tmp_path: Path) -> None:
        source = SysfsSource(plant(tmp_path, MI300))
        source.discover()
        shutil.rmtree(tmp_path / "class/drm/card1")
        assert source.sample() == {}
