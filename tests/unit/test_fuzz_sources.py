"""Whatever a driver's files, tools and libraries say, a source tells readings that are numbers, or that it has none."""

from __future__ import annotations

import json
import math
import plistlib
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, DeviceInfo, NodeInventory
from accelerator_autopilot.telemetry.agent.adapters.agent_state import AgentState, StateFile
from accelerator_autopilot.telemetry.agent.adapters.amd_smi import AmdSmiSource
from accelerator_autopilot.telemetry.agent.adapters.apple import AppleSource
from accelerator_autopilot.telemetry.agent.adapters.boot_identity import boot_id
from accelerator_autopilot.telemetry.agent.adapters.cpu import CpuSource
from accelerator_autopilot.telemetry.agent.adapters.device_processes import container_of, describe_process
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.frame_replay import ReplaySource, save
from accelerator_autopilot.telemetry.agent.adapters.jetson import JetsonSource
from accelerator_autopilot.telemetry.agent.adapters.kernel_log import KernelLog
from accelerator_autopilot.telemetry.agent.adapters.power_cap_file import PowerCapFile
from accelerator_autopilot.telemetry.agent.adapters.power_privilege import may_control_power
from accelerator_autopilot.telemetry.agent.adapters.scrape_page import MAX_LINE, Page
from accelerator_autopilot.telemetry.agent.adapters.sysfs_gpu import SysfsSource
from accelerator_autopilot.telemetry.agent.ports import DeviceSource
from tests.support.builders import T0, frame
from tests.support.fuzzing import JSON, LINES, at_most, fuzzed, near, near_json
from tests.support.trees import plant
from tests.unit.test_sources import DCGM, FakeAmdSmi
from tests.unit.test_sysfs_sources import ARC_AND_NPU, MI300, TWO_PACKAGES

JETSON: dict[str, str | int] = {
    "proc/device-tree/model": "NVIDIA Jetson Orin",
    "sys/devices/gpu.0/load": 455,
    "sys/class/devfreq/17000000.gpu/cur_freq": 1_300_500_000,
    "sys/class/thermal/thermal_zone1/type": "GPU-therm",
    "sys/class/thermal/thermal_zone1/temp": 48_500,
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_GPU_SOC",
    "sys/class/hwmon/hwmon3/in1_input": 5_000,
    "sys/class/hwmon/hwmon3/curr1_input": 2_000,
}
REPORT = plistlib.dumps({"gpu": {"idle_ratio": 0.25, "freq_hz": 1398.0, "gpu_energy": 500}, "elapsed_ns": 200_000_000})
KMSG = "4,1234,5678,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."
CAPS = [{"device": "gpu-0", "clock": True, "default_w": 250.0}, "gpu-1"]
STATE = {"boot_id": "b", "epochs": {"nvidia": "e"}, "kernel_sequence": 7, "addresses": {"0000:3b:00": "gpu-0"}}
ASKED = ["amdsmi_get_processor_handles", "amdsmi_get_gpu_device_uuid", "amdsmi_get_gpu_device_bdf",
         "amdsmi_get_gpu_asic_info", "amdsmi_get_gpu_vram_usage", "amdsmi_get_power_cap_info",
         "amdsmi_get_gpu_activity", "amdsmi_get_power_info", "amdsmi_get_energy_count", "amdsmi_get_temp_metric",
         "amdsmi_get_gpu_total_ecc_count"]  # fmt: skip
ANYTHING = st.one_of(LINES.map(str.encode), st.binary(max_size=60))


def sound(source: DeviceSource) -> None:
    """Devices that a message can carry and readings that are numbers; or UnavailableError."""
    for _ in range(2):
        try:
            found, samples = source.discover(), source.sample()
        except UnavailableError:
            continue
        NodeInventory(node="n1", at=T0, period_s=1.0, devices=found)
        assert all(math.isfinite(value) for sample in samples.values() for value in sample.values()), samples
        assert set(samples) <= {info.device for info in found}


def spoilt(files: dict[str, str | int]) -> st.SearchStrategy[dict[str, bytes]]:
    """One to three files of a tree with something else in them."""
    return st.dictionaries(st.sampled_from(sorted(files)), ANYTHING, min_size=1, max_size=3)


def planted(files: dict[str, str | int], others: dict[str, bytes], folder: str) -> Path:
    root = plant(Path(folder), files)
    for name, content in others.items():
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize("files", [MI300, ARC_AND_NPU], ids=["amd", "intel"])
@fuzzed(80)
@given(data=st.data())
def test_sysfs(files: dict[str, str | int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = planted(files, data.draw(spoilt(files)), folder)
        sound(SysfsSource(root))


@fuzzed(80)
@given(spoilt(TWO_PACKAGES))
def test_cpu(others: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sound(CpuSource(planted(TWO_PACKAGES, others, folder)))


@fuzzed(80)
@given(spoilt(JETSON))
def test_jetson(others: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            source = JetsonSource(planted(JETSON, others, folder))
        except UnavailableError:
            return
        sound(source)


@fuzzed(150)
@given(st.one_of(near(REPORT), near_json(plistlib.loads(REPORT)).map(json.dumps).map(str.encode), st.binary()))
def test_apple(report: bytes) -> None:
    sound(AppleSource(lambda: report, needed="true"))


@fuzzed(100)
@given(near_json(plistlib.loads(REPORT)))
def test_apple_of_odd_values(report: Any) -> None:
    try:
        packed = plistlib.dumps(report)
    except (TypeError, OverflowError, ValueError, AttributeError):
        return
    sound(AppleSource(lambda: packed, needed="true"))


@fuzzed(150)
@given(st.sampled_from(ASKED), JSON)
def test_amdsmi(name: str, answer: Any) -> None:
    library = FakeAmdSmi()
    setattr(library, name, lambda *_: answer)
    sound(AmdSmiSource(library))


@fuzzed(150)
@given(st.one_of(near(DCGM.encode()).map(lambda page: page.decode(errors="replace")), st.lists(LINES).map("\n".join)))
def test_a_page_of_metrics(page: str) -> None:
    source = ExporterSource("http://x/metrics", lambda _: page)
    sound(source)
    assert source.bad_lines >= 0


@pytest.mark.parametrize(
    "line",
    [
        "a" + " " * (MAX_LINE - 20) + "b c d",
        "a{" + '}" ' * 5000,
        'a{x="' + "\\" * 16_000,
        "a{" + 'x="y",' * 2500 + "} b c",
        "a 1 " + "#" * 16_000,
        "a{}" + " 1" * 8000,
    ],
)
def test_no_line_of_a_page_takes_long(line: str) -> None:
    with at_most(0.5):
        list(Page(f"{line}\n" * 20).lines())


@fuzzed(150)
@given(st.one_of(LINES, near(KMSG.encode()).map(lambda line: line.decode(errors="replace"))))
def test_kernel_log(line: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kmsg"
        path.write_bytes(line.encode() + b"\n")
        for event in KernelLog(lambda _: "gpu-0", path, whole=True, boot_id="b").poll():
            DeviceEvent(id="e", node="n1", device=event.device, at=T0, kind=event.kind, code=event.code)


@fuzzed(150)
@given(st.one_of(near(json.dumps(CAPS).encode()), near_json(CAPS).map(lambda v: json.dumps(v).encode())))
def test_the_file_of_caps(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "caps.json"
        path.write_bytes(content)
        kept = PowerCapFile(path).load()
        assert all(0 < watts < math.inf for watts in kept.defaults_w.values())
        assert path.exists() or kept.devices == {"*"}


@fuzzed(150)
@given(st.one_of(near(json.dumps(STATE).encode()), near_json(STATE).map(lambda v: json.dumps(v).encode())))
def test_the_state_of_the_agent(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        path.write_bytes(content)
        state = StateFile(path).load()
        StateFile(path).save(state)
        assert isinstance(state, AgentState)


@fuzzed(60)
@given(ANYTHING)
def test_small_files_of_the_kernel(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1" / "cgroup"
        path.parent.mkdir()
        path.write_bytes(content)
        assert len(boot_id(path)) <= 200
        assert isinstance(may_control_power(path), bool)
        assert len(container_of(1, Path(folder))) in {0, 12}


@fuzzed(60)
@given(st.one_of(LINES, st.just("\udcff\udc80")), st.one_of(LINES, st.just("\udcff")))
def test_processes_of_odd_names(name: str, user: str) -> None:
    process = SimpleNamespace(name=lambda: name, username=lambda: user, create_time=lambda: 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil, "Process", lambda _: process)
        described = describe_process(7, None)
    DeviceInfo(device="d", model="m", source="s", processes=[described]).model_dump_json()


@fuzzed(80)
@given(st.data())
def test_recordings(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        save(path, [frame(), frame()])
        path.write_bytes(data.draw(near(path.read_bytes())))
        try:
            source = ReplaySource(path)
        except InvalidInputError:
            return
        for _ in range(3):
            source.sample()
