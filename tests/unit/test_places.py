"""Which devices workers run on, and what they are told of them."""

from __future__ import annotations

from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo
from accelerator_autopilot.inference.pool.application.worker_devices import DeviceGroup, places


def device(name: str, source: str, **more: object) -> DeviceInfo:
    return DeviceInfo.model_validate({"device": name, "model": "M", "source": source} | more)


CPU = device("cpu-0", "cpu")


def test_a_split_gpu_is_offered_by_its_instances_alone() -> None:
    parent = device("GPU-1", "nvml")
    instances = [device(f"MIG-{n}", "nvml", parent="GPU-1") for n in range(2)]
    assert places([parent, *instances, device("GPU-2", "nvml"), CPU]) == [*instances, device("GPU-2", "nvml")]


def test_what_is_only_watched_runs_nothing() -> None:
    watched = [device("GPU-9", "scrape"), device("r", "replay", simulated=True)]
    assert places([*watched, CPU]) == [CPU]
    assert places(watched) == []
    assert places([*watched, device("sim-0", "simulated", simulated=True)])[0].device == "sim-0"


def test_each_amd_worker_sees_its_own_cards() -> None:
    cards = [device(f"amd-{n}", source, vendor="amd", index=n) for n, source in enumerate(("amdsmi", "sysfs"))]
    told = [DeviceGroup((card,)).environment() for card in cards]
    assert [t["HIP_VISIBLE_DEVICES"] for t in told] == ["0", "1"]
    assert {t["AUTOPILOT_TORCH_DEVICE"] for t in told} == {"cuda"}
    assert DeviceGroup(tuple(cards)).environment()["HIP_VISIBLE_DEVICES"] == "0,1"


def test_cards_that_torch_cannot_use_do_not_pass_for_those_that_it_can() -> None:
    told = DeviceGroup((device("i915", "sysfs", vendor="intel"),)).environment()
    assert told["AUTOPILOT_TORCH_DEVICE"] == "cpu"
    assert "HIP_VISIBLE_DEVICES" not in told
    assert DeviceGroup((device("GPU-1", "nvml"),)).environment()["CUDA_VISIBLE_DEVICES"] == "GPU-1"
