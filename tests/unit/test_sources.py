"""Accelerators that are not NVIDIA's, on recorded trees and answers."""

from __future__ import annotations

import plistlib
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.telemetry.agent.adapters import scrape_page
from accelerator_autopilot.telemetry.agent.adapters.amd_smi import AmdSmiSource
from accelerator_autopilot.telemetry.agent.adapters.apple import AppleSource
from accelerator_autopilot.telemetry.agent.adapters.device_processes import container_of, describe_process
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.jetson import JetsonSource
from accelerator_autopilot.telemetry.agent.adapters.scrape_page import fetch_page
from tests.support.trees import plant

DCGM = """
# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-a",pci_bus_id="0:1",device="nvidia0",modelName="NVIDIA H100",Hostname="h"} 44
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100",Hostname="h"} 1024
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-a",device="nvidia0",modelName="NVIDIA H100"} 5000
DCGM_FI_PROF_SM_ACTIVE{gpu="0",UUID="GPU-a",device="nvidia0",GPU_I_ID="3",modelName="NVIDIA H100"} 0.5
some_other_metric{job="x"} 1
"""
TPU = """
# TYPE duty_cycle gauge
duty_cycle{accelerator_id="4804027566066027395-0",make="cloud-tpu",model="tpu-v5-lite"} 93
memory_used{accelerator_id="4804027566066027395-0",make="cloud-tpu",model="tpu-v5-lite"} 1e9
"""


TWO_CARDS = "".join(
    f'{name}{{gpu="{i}",UUID="GPU-{card}",modelName="NVIDIA H100"}} 44\n'
    for name in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE")
    for i, card in enumerate("ab")
)


class FakeAmdSmi:
    """What amdsmi 6.4 answers for an MI300X; "N/A" where it has nothing."""

    class AmdSmiTemperatureMetric:
        CURRENT = 0

    class AmdSmiTemperatureType:
        HOTSPOT, VRAM = 1, 2

    def __init__(self) -> None:
        self.cap_uw = 750_000_000
        self.fails: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "amdsmi_init": None, "amdsmi_get_processor_handles": ["h"],
            "amdsmi_get_gpu_device_uuid": "d7ff74a1-0000-1000-80b5-a4", "amdsmi_get_gpu_device_bdf": "0000:05:00.0",
            "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI300X"},
            "amdsmi_get_gpu_vram_usage": {"vram_total": 196592, "vram_used": 283},
            "amdsmi_get_power_cap_info": {"power_cap": self.cap_uw, "min_power_cap": 0, "max_power_cap": 750_000_000,
                                          "default_power_cap": 750_000_000},
            "amdsmi_get_gpu_activity": {"gfx_activity": 93, "umc_activity": 12, "mm_activity": "N/A"},
            "amdsmi_get_power_info": {"current_socket_power": 601, "average_socket_power": "N/A", "power_limit": 750},
            "amdsmi_get_energy_count": {"energy_accumulator": 2_000_000, "counter_resolution": 15.3},
            "amdsmi_get_temp_metric": 64, "amdsmi_get_gpu_total_ecc_count": {"correctable_count": 1,
                                                                          "uncorrectable_count": 0},
        }  # fmt: skip

        def call(*_: Any) -> Any:
            if self.fails & {name, "*"}:
                raise RuntimeError(f"{name} failed")
            if name == "amdsmi_set_power_cap":
                self.cap_uw = _[2]
                return None
            return answers[name]

        return call


class TestAmdSmi:
    def test_a_gpu_is_described_read_and_capped(self) -> None:
        source = AmdSmiSource(FakeAmdSmi())
        info = source.discover()[0]
        assert (info.model, info.power_max_w, info.memory_bytes) == ("AMD Instinct MI300X", 750.0, 196592 * 2**20)
        sample = source.sample()[info.device]
        assert (sample["gpu_util_pct"], sample["power_w"], sample["temp_mem_c"]) == (93.0, 601.0, 64.0)
        assert sample["energy_j"] == pytest.approx(30.6)
        source.set_cap_w(info.device, 600.0)
        assert source.applied_cap_w(info.device) == 600.0

    def test_a_library_that_fails_loses_no_device_and_a_card_keeps_its_name(self) -> None:
        library = FakeAmdSmi()
        source = AmdSmiSource(library)
        name = source.discover()[0].device
        library.fails = {"amdsmi_get_gpu_device_uuid"}
        assert source.discover()[0].device == name
        library.fails = {"*"}
        for ask in (source.discover, source.sample):
            with pytest.raises(UnavailableError, match="cannot list devices"):
                ask()
        library.fails = set()
        assert list(source.sample()) == [name]

    def test_without_the_package_it_is_not_there(self) -> None:
        with pytest.raises(UnavailableError, match="amdsmi"):
            AmdSmiSource()


def test_a_jetson_gives_load_heat_and_the_power_of_its_gpu_rail(tmp_path: Path) -> None:
    tree: dict[str, str | int] = {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "sys/devices/platform/gpu.0/load": 873,
        "sys/class/devfreq/17000000.gpu/cur_freq": 1_300_500_000,
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": 51_500,
        "sys/class/hwmon/hwmon3/name": "ina3221",
        "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU_SOC",
        "sys/class/hwmon/hwmon3/in1_input": 19_000,
        "sys/class/hwmon/hwmon3/curr1_input": 1_000,
    }
    source = JetsonSource(plant(tmp_path, tree))
    assert source.discover()[0].model.startswith("NVIDIA Jetson AGX Orin")
    sample = source.sample()["jetson-gpu-0"]
    assert (sample["gpu_util_pct"], sample["temp_c"], sample["clock_sm_mhz"]) == (pytest.approx(87.3), 51.5, 1300.5)
    assert sample["power_w"] == pytest.approx(19.0)
    with pytest.raises(UnavailableError):
        JetsonSource(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "sys")
    with pytest.raises(UnavailableError, match="cannot be read"):
        source.sample()


def test_an_apple_gpu_is_read_from_powermetrics() -> None:
    report = plistlib.dumps(
        {"elapsed_ns": 200_000_000, "gpu": {"freq_hz": 444.0, "idle_ratio": 0.75, "gpu_energy": 820}}
    )
    source = AppleSource(lambda: report + b"\0", needed="python3")
    sample = source.sample()["apple-gpu-0"]
    assert (sample["gpu_util_pct"], sample["clock_sm_mhz"], sample["power_w"]) == (25.0, 444.0, pytest.approx(4.1))
    for told in (b"garbage", b"", plistlib.dumps({"gpu": {}}), plistlib.dumps([1])):
        with pytest.raises(UnavailableError, match="powermetrics"):
            AppleSource(lambda told=told: told, needed="python3").sample()  # type: ignore[misc]
    with pytest.raises(UnavailableError):
        AppleSource(needed="no-such-program")


class TestScrape:
    def test_a_dcgm_exporter_is_translated_into_our_units(self) -> None:
        source = ExporterSource("http://h:9400/metrics", lambda _: DCGM)
        assert [(d.device, d.model, d.vendor) for d in source.discover()] == [
            ("GPU-a", "NVIDIA H100", "nvidia"), ("GPU-a/3", "NVIDIA H100", "nvidia"),
        ]  # fmt: skip
        samples = source.sample()
        assert samples["GPU-a"]["temp_c"] == 44.0
        assert samples["GPU-a"]["memory_used_bytes"] == 2**30
        assert samples["GPU-a"]["energy_j"] == pytest.approx(5.0)
        assert samples["GPU-a/3"]["sm_util_pct"] == pytest.approx(50.0)

    def test_a_tpu_is_read_from_its_metrics(self) -> None:
        sample = ExporterSource("http://h:2112/metrics", lambda _: TPU).sample()["4804027566066027395-0"]
        assert (sample["gpu_util_pct"], sample["memory_used_bytes"]) == (93.0, 1e9)

    def test_an_exporter_that_is_away_is_said_to_be_and_no_device_is_lost(self) -> None:
        def away(_: str) -> str:
            raise OSError("refused")

        source = ExporterSource("http://h/metrics", away)
        with pytest.raises(UnavailableError, match="refused"):
            source.sample()
        assert not source.is_driver

    @pytest.mark.parametrize("bad", ["N/A", "", "0x", "1 2 3", "}"])
    def test_one_bad_line_costs_one_line(self, bad: str) -> None:
        line = f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",UUID="GPU-a"}} {bad}\n'
        source = ExporterSource("http://h/metrics", lambda _: line + DCGM)
        assert [d.device for d in source.discover()] == ["GPU-a", "GPU-a/3"]
        sample = source.sample()["GPU-a"]
        assert (sample["temp_c"], "power_w" in sample, source.bad_lines) == (44.0, False, 2)

    @pytest.mark.parametrize(
        "blank", ["2147483632", "2147483634", "140737488355328", "9223372036854775794", "9.223372036854776e+18"]
    )
    def test_what_dcgm_calls_blank_is_no_reading(self, blank: str) -> None:
        page = DCGM.replace("} 5000", f"}} {blank}")
        assert "energy_j" not in ExporterSource("http://h/metrics", lambda _: page).sample()["GPU-a"]

    @pytest.mark.parametrize("page", [TWO_CARDS[:90], TWO_CARDS.splitlines()[0] + "\n", "", "\n"])
    def test_half_a_page_is_a_fault_of_its_source(self, page: str) -> None:
        pages = [TWO_CARDS, page, TWO_CARDS]
        source = ExporterSource("http://h/metrics", lambda _: pages.pop(0))
        source.sample()
        with pytest.raises(UnavailableError, match="an incomplete page"):
            source.sample()
        assert sorted(source.sample()) == ["GPU-a", "GPU-b"]

    def test_a_card_that_leaves_a_whole_page_is_gone(self) -> None:
        lines = TWO_CARDS.splitlines(keepends=True)
        pages = [TWO_CARDS, "".join(line for line in lines if "GPU-b" not in line)]
        source = ExporterSource("http://h/metrics", lambda _: pages.pop(0))
        source.sample()
        assert list(source.sample()) == ["GPU-a"]

    @pytest.mark.parametrize(
        ("answer", "drips", "why"),
        [
            (b"HTTP/1.0 500 Oops\r\n\r\n", 0, "500"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 999\r\n\r\nx 1\n", 0, "of 999 bytes|Incomplete"),
            (b"HTTP/1.0 200 OK\r\n\r\n", 100, "took too long"),
            (b"HTTP/1.0 200 OK\r\nX-Drip: ", 100, "does not answer|took too long"),
        ],
    )
    def test_an_exporter_that_fails_drips_or_stops_is_left_in_time(self, answer: bytes, drips: int, why: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                client, _ = server.accept()
                with client, suppress(OSError):
                    client.recv(1000)
                    client.sendall(answer)
                    for _ in range(drips):
                        client.sendall(b"x 1\n")
                        time.sleep(0.02)

            thread = threading.Thread(target=serve)
            thread.start()
            began = time.monotonic()
            with pytest.raises(UnavailableError, match=why):
                fetch_page(f"http://127.0.0.1:{server.getsockname()[1]}/metrics", 0.3)
            assert time.monotonic() - began < 2.0
            thread.join()

    @pytest.mark.parametrize("length", ["", "Content-Length: 99999999999\r\n"])
    def test_a_page_without_end_is_left_at_its_limit(self, length: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scrape_page, "MAX_BYTES", 100_000)
        sent = 0
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                nonlocal sent
                client, _ = server.accept()
                with client, suppress(OSError):
                    client.recv(1000)
                    client.sendall(f"HTTP/1.0 200 OK\r\n{length}\r\n".encode())
                    while sent < 50 * 2**20:
                        sent += client.send(b"x 1\n" * 10_000)

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(UnavailableError):
                fetch_page(f"http://127.0.0.1:{server.getsockname()[1]}/metrics", 5.0)
            thread.join()
        assert sent < 50 * 2**20

    def test_only_web_addresses_are_taken(self) -> None:
        with pytest.raises(InvalidInputError, match="scrape_urls"):
            ExporterSource("file:///etc/passwd")


class TestProcesses:
    def test_this_process_is_known_by_name_and_user(self) -> None:
        import os

        found = describe_process(os.getpid(), 5)
        assert (found.pid, found.memory_bytes) == (os.getpid(), 5)
        assert found.name
        assert found.username

    def test_one_of_another_namespace_is_a_number(self) -> None:
        assert describe_process(2**22 + 1, None).name == ""

    @pytest.mark.parametrize(
        "line",
        [
            "0::/system.slice/docker-{}.scope",
            "0::/kubepods/burstable/pod1/{}",
            "12:cpu:/kubepods.slice/cri-containerd-{}.scope",
        ],
    )
    def test_containers_are_found_in_the_control_groups(self, tmp_path: Path, line: str) -> None:
        plant(tmp_path, {"77/cgroup": line.format("ab" * 32)})
        assert container_of(77, tmp_path) == "ababababab" + "ab"
