"""Drivers that an agent lets go of, GPUs that sleep, and memory that is the machine's."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import psutil
import pynvml
import pytest
from typer.testing import CliRunner

from accelerator_autopilot.cli.app import app
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent
from accelerator_autopilot.runtime.driver_release_request import (
    DEFAULT_RELEASE_S,
    FILE,
    MAX_S,
    release,
    released,
    take_back,
)
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent.adapters import runtime_suspend
from accelerator_autopilot.telemetry.agent.adapters.late_driver import LateDriverSource
from accelerator_autopilot.telemetry.agent.adapters.nvml import NvmlSource
from accelerator_autopilot.telemetry.agent.adapters.nvml import source as nvml_source
from accelerator_autopilot.telemetry.agent.adapters.runtime_suspend import NVIDIA, all_suspended, is_suspended_at
from accelerator_autopilot.telemetry.agent.adapters.source_discovery import make_sources
from accelerator_autopilot.telemetry.agent.adapters.sysfs_gpu import SysfsSource
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.sampling import Sampler
from accelerator_autopilot.telemetry.agent.domain.energy import EnergyWatch
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer
from accelerator_autopilot.telemetry.errors import PowerControlError
from accelerator_autopilot.telemetry.settings import AgentSettings
from tests.support.fake_nvml import UUID, FakeNvml
from tests.support.trees import plant
from tests.unit.test_sysfs_sources import MI300


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    fake.install(monkeypatch)
    return fake


class TestFile:
    @pytest.mark.parametrize(
        ("content", "lasts_s"),
        [(None, 0.0), ("1300\n", 300.0), ("", DEFAULT_RELEASE_S), ("nonsense", DEFAULT_RELEASE_S), ("9e99", MAX_S),
         ("-5", 0.0), (b"\xff\xfe", 0.0)],
    )  # fmt: skip
    def test_it_says_until_when(self, tmp_path: Path, content: str | bytes | None, lasts_s: float) -> None:
        if content is not None:
            path = tmp_path / FILE
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            os.utime(path, (1000.0, 1000.0))
        for now_s in (1000.0, 1000.0 + lasts_s - 1, 1000.0 + lasts_s + 1):
            assert bool(released(tmp_path, lambda now_s=now_s: now_s)) is (lasts_s > 0 and now_s < 1000.0 + lasts_s)

    def test_the_command_writes_and_removes_it(self, tmp_path: Path) -> None:
        said = CliRunner().invoke(app, ["driver", "release", "--minutes", "5", "--data-dir", str(tmp_path)])
        assert said.exit_code == 0, said.output
        assert 200 < float((tmp_path / FILE).read_text()) - (tmp_path / FILE).stat().st_mtime <= 301
        assert CliRunner().invoke(app, ["driver", "take", "--data-dir", str(tmp_path)]).exit_code == 0
        assert not (tmp_path / FILE).exists()
        take_back(tmp_path)

    def test_a_folder_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="nowhere"):
            release(tmp_path / "nowhere", 5.0)


class TestLettingGo:
    def agent(self, held: list[str]) -> tuple[Sampler, LateDriverSource]:
        async def publish(*_: Any) -> None: ...

        source = LateDriverSource("nvml", NvmlSource, lambda: held[0])
        guarded = ThreadedSource(source, 5.0)
        return Sampler("n1", 1.0, [guarded], publish, publish, HealthState("a"), FrameBuffer(100)), source

    async def test_the_driver_is_closed_for_as_long_as_it_is_asked_and_opened_again(self, driver: FakeNvml) -> None:
        held = [""]
        sampler, source = self.agent(held)
        await sampler.discover_devices()
        driver.answers["nvmlDeviceGetCount"] = _reloaded_once()
        await sampler.discover_devices()
        await sampler.discover_devices()
        await sampler._tick()
        assert driver.calls["nvmlInit"] == 2, "it was started anew once"
        driver.answers["nvmlShutdown"] = None
        held[0] = "released by an operator"
        for _ in range(4):
            await sampler._tick()
            await sampler.discover_devices()
        assert (source.opened, driver.calls["nvmlShutdown"], driver.calls["nvmlInit"]) == (None, 2, 2)
        assert "released" in sampler._states["nvml"]
        assert list(sampler.devices) == [UUID], "its devices stay known"
        held[0] = ""
        await sampler.discover_devices()
        await sampler._tick()
        assert (sampler._states["nvml"], driver.calls["nvmlInit"]) == ("ok", 3)
        told = [DeviceEvent.model_validate_json(i.body) for i in sampler.buffer if i.is_event]
        assert {(e.device, e.kind) for e in told} == {
            (UUID, "appeared"), ("nvml", "source_recovered"), ("nvml", "source_failed"),
        }, "nothing is lost while it is released"  # fmt: skip

    async def test_an_agent_that_starts_meanwhile_opens_nothing(self, driver: FakeNvml) -> None:
        held = ["released"]
        sampler, source = self.agent(held)
        await sampler.discover_devices()
        assert (driver.calls["nvmlInit"], source.absent) == (0, False)

    def test_the_agents_own_folder_is_looked_at(self, tmp_path: Path) -> None:
        sources = make_sources(AgentSettings(data_dir=tmp_path, cpu="never"))
        nvml = next(s for s in sources if s.name == "nvml")
        assert isinstance(nvml, LateDriverSource)
        assert nvml.released() == ""
        (tmp_path / FILE).touch()
        assert "operator" in nvml.released()


def _reloaded_once() -> Any:
    left = [pynvml.NVML_ERROR_DRIVER_NOT_LOADED]

    def count() -> int:
        if left:
            raise pynvml.NVMLError(left.pop())
        return 1

    return count


CARD = "bus/pci/devices/0000:3b:00.0"
LAPTOP: dict[str, str | int] = {
    f"{CARD}/vendor": "0x10de", f"{CARD}/class": "0x030200", f"{CARD}/power/runtime_status": "suspended",
    "bus/pci/devices/0000:3b:00.1/vendor": "0x10de", "bus/pci/devices/0000:3b:00.1/class": "0x040300",
    "bus/pci/devices/0000:3b:00.1/power/runtime_status": "active",
    "bus/pci/devices/0000:00:02.0/vendor": "0x8086", "bus/pci/devices/0000:00:02.0/class": "0x030000",
}  # fmt: skip


class TestSleep:
    def test_a_gpu_that_sleeps_is_found_by_any_form_of_its_address(self, tmp_path: Path) -> None:
        root = plant(tmp_path, LAPTOP)
        assert is_suspended_at("00000000:3B:00.0", root)
        assert not is_suspended_at(None, root)
        assert not is_suspended_at("0000:99:00.0", root)
        assert all_suspended(NVIDIA, root), "its sound device is no GPU"
        assert not all_suspended("0x8086", root)
        assert not all_suspended("0x1002", root)

    def test_it_is_not_asked_and_not_lost(self, driver: FakeNvml, tmp_path: Path, monkeypatch: Any) -> None:
        root = plant(tmp_path, {**LAPTOP, f"{CARD}/power/runtime_status": "active"})
        monkeypatch.setattr(nvml_source, "is_suspended_at", lambda pci: is_suspended_at(pci, root))
        source = NvmlSource()
        source.discover()
        assert "power_w" in source.sample()[UUID]
        plant(tmp_path, LAPTOP)
        before = driver.calls.copy()
        assert [info.device for info in source.discover()] == [UUID]
        assert source.sample() == {UUID: {"read_errors": 0.0}}
        asked = {name for name, n in (driver.calls - before).items() if n}
        assert asked <= {"nvmlDeviceGetCount"}
        plant(tmp_path, {f"{CARD}/power/runtime_status": "active"})
        assert "power_w" in source.sample()[UUID]

    def test_nothing_is_opened_while_all_sleep(self, driver: FakeNvml, tmp_path: Path, monkeypatch: Any) -> None:
        root = plant(tmp_path / "sys", LAPTOP)
        monkeypatch.setattr(
            "accelerator_autopilot.telemetry.agent.adapters.source_discovery.all_suspended",
            lambda vendor: all_suspended(vendor, root),
        )
        source = next(s for s in make_sources(AgentSettings(data_dir=tmp_path, cpu="never")) if s.name == "nvml")
        assert isinstance(source, LateDriverSource)
        assert (source.discover(), source.absent, driver.calls["nvmlInit"]) == ([], True, 0)
        plant(tmp_path / "sys", {f"{CARD}/power/runtime_status": "active"})
        assert [info.device for info in source.discover()] == [UUID]

    def test_an_amd_card_that_sleeps_is_not_read(self, tmp_path: Path) -> None:
        source = SysfsSource(plant(tmp_path, MI300))
        source.discover()
        plant(tmp_path, {"class/drm/card1/device/power/runtime_status": "suspended"})
        assert source.sample() == {"amd-gpu-b5a4": runtime_suspend.ASLEEP}


@pytest.mark.parametrize(("model", "shown"), [("NVIDIA GB10", True), ("NVIDIA Thor", True), ("NVIDIA T4", False)])
def test_a_gpu_without_memory_of_its_own_shows_the_machines(driver: FakeNvml, model: str, shown: bool) -> None:
    driver.answers["nvmlDeviceGetName"] = model
    source = NvmlSource()
    info = source.discover()[0]
    sample = source.sample()[UUID]
    total = psutil.virtual_memory().total
    assert (info.memory_bytes, sample.get("memory_total_bytes")) == ((total, total) if shown else (None, None))


@pytest.mark.parametrize(
    ("code", "why"),
    [(pynvml.NVML_ERROR_NO_PERMISSION, "needs root"), (pynvml.NVML_ERROR_NOT_SUPPORTED, "laptop"),
     (pynvml.NVML_ERROR_INVALID_ARGUMENT, "outside"), (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error")],
)  # fmt: skip
def test_a_cap_that_is_refused_says_why(driver: FakeNvml, code: int, why: str) -> None:
    def refuse(*_: Any) -> None:
        raise pynvml.NVMLError(code)

    driver.answers["nvmlDeviceSetPowerManagementLimit"] = refuse
    source = NvmlSource()
    source.discover()
    with pytest.raises(PowerControlError, match=why) as refused:
        source.set_cap_w(UUID, 150.0)
    assert ("root" in str(refused.value)) is (code == pynvml.NVML_ERROR_NO_PERMISSION)


class TestEnergyThatStandsStill:
    def run(self, counters: list[float | None], power_w: float, watch: EnergyWatch | None = None) -> list[float | None]:
        watch = watch or EnergyWatch()
        told = []
        for second, counter in enumerate(counters):
            sample = {"power_w": power_w} | ({} if counter is None else {"energy_j": counter})
            told.append(watch.complete("g", sample, float(second)).get("energy_j"))
        return told

    def test_power_is_integrated_instead(self) -> None:
        told = self.run([0.0] * 601, 400.0)
        assert told[-1] == pytest.approx(600 * 400.0)
        assert told == sorted(told, key=lambda value: value or 0.0), "it never falls"

    def test_a_counter_that_counts_is_kept(self) -> None:
        counters = [second * 400.0 for second in range(300)]
        assert self.run(counters, 390.0) == counters

    def test_one_that_is_renewed_each_minute_is_kept(self) -> None:
        counters = [float(second // 60 * 60 * 400) for second in range(600)]
        assert self.run(counters, 400.0) == counters

    def test_an_idle_device_without_power_stays(self) -> None:
        assert set(self.run([7.0] * 600, 0.0)) == {7.0}

    def test_one_that_counts_again_goes_on_from_what_was_told(self) -> None:
        told = self.run([1000.0] * 400 + [1000.0 + 400.0 * n for n in range(1, 100)], 400.0)
        steps = [after - before for before, after in itertools.pairwise(told)]
        assert min(steps) >= 0.0
        assert told[-1] == pytest.approx(1000.0 + 498 * 400.0, rel=0.01)

    def test_a_reset_is_one(self) -> None:
        assert self.run([500.0, 600.0, 10.0], 100.0) == [500.0, 600.0, 10.0]

    def test_without_a_counter_nothing_is_made_up(self) -> None:
        assert self.run([None] * 5, 100.0) == [None] * 5
