"""The agent's NVML source on what a real card answered, recorded by `make gpu-check`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from accelerator_autopilot.telemetry.agent.adapters.nvml import NvmlSource
from tests.gpu_check.nvml_playback import Playback
from tests.gpu_check.nvml_recording import anonymous, question
from tests.gpu_check.report import page

RECORDINGS = Path(__file__).parents[1] / "gpu_check" / "recordings"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An H200 with driver 580; the names of the calls that it was asked."""
    calls: list[str] = []
    for name, function in Playback(RECORDINGS / "nvidia_h200.json").functions().items():

        def counted(*arguments: object, _name: str = name, _function: object = function, **named: object) -> object:
            calls.append(_name)
            if _name == "nvmlDeviceGetFieldValues":
                calls.extend(f"field {item[0] if isinstance(item, tuple) else item}" for item in arguments[1])  # type: ignore[attr-defined]
            return _function(*arguments, **named)  # type: ignore[operator]

        monkeypatch.setattr(pynvml, name, counted)
    return calls


def test_a_real_card_is_described(asked: list[str]) -> None:
    (card,) = NvmlSource().discover()
    assert (card.model, card.driver, card.pci_bus_id) == ("NVIDIA H200", "580.159.04", "00000000:00:06.0")
    assert (card.power_min_w, card.power_default_w, card.power_max_w) == (200, 700, 700)
    assert card.memory_bytes == 150_754_820_096
    assert (card.mig_mode, card.ecc_mode, card.persistence_mode) == (False, True, True)


def test_its_readings_are_the_card_s(asked: list[str]) -> None:
    source = NvmlSource()
    (card,) = source.discover()
    source.sample()
    source._devices[card.device].costly_at_s = None
    sample = source.sample()[card.device]
    assert sample["power_w"] == pytest.approx(77, abs=5)
    assert sample["memory_used_bytes"] == 0.0
    assert sample["energy_j"] == pytest.approx(4457.918)
    assert 30 < sample["temp_c"] < 45
    assert sample["sm_util_pct"] == 0.0
    assert source.errors == {}


def test_what_it_lacks_is_asked_once(asked: list[str]) -> None:
    source = NvmlSource()
    (card,) = source.discover()
    source.sample()
    assert source._gate.unsupported[card.device] == {
        "fan", "fan_rpm", "power_module_w", "retired_pages_sbe", "retired_pages_dbe", "retired_pages_pending",
    }  # fmt: skip


def test_readings_that_cost_milliseconds_are_taken_once_a_second(asked: list[str]) -> None:
    source = NvmlSource()
    (card,) = source.discover()
    first, second = source.sample()[card.device], source.sample()[card.device]
    assert second["energy_j"] == first["energy_j"]
    assert "power_w" in second
    assert asked.count(f"field {pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION}") == 1
    assert asked.count("nvmlGpmSampleGet") == 1


def test_nothing_is_ever_set(asked: list[str]) -> None:
    source = NvmlSource()
    source.discover()
    source.sample()
    source.poll_events()
    assert not [name for name in asked if "Set" in name and not name.startswith("nvmlEventSet")]


def test_a_recording_holds_no_card_s_name() -> None:
    answers = {"nvmlDeviceGetSerial": {"[]": {"value": "1652922010123"}}}
    text = json.dumps({"uuid": "GPU-c834433d-9a60-e56f-f1b9-71893ceba050", "serial": "1652922010123"})
    assert anonymous(text, answers) == json.dumps(
        {"uuid": "GPU-00000000-0000-0000-0000-000000000001", "serial": "0000000000000"}
    )


def test_a_question_is_the_same_whenever_it_is_asked() -> None:
    assert question("nvmlDeviceGetSamples", ["h", 0, 17], {}) == question("nvmlDeviceGetSamples", ["h", 0, 99], {})
    assert question("nvmlDeviceGetClockInfo", ["h", 1], {}) != question("nvmlDeviceGetClockInfo", ["h", 2], {})


def test_a_part_that_failed_stands_on_the_page() -> None:
    result = {
        "machine": {"python": "3.12", "cores": 16, "packages": {"torch": "2"}, "nvidia_smi": None}, "took_s": 3.0,
        "rehearsal": True, "sections": {"nvml": {"error": "RuntimeError: no driver\nmore", "took_s": 1.0}},
    }  # fmt: skip
    assert "| nvml | RuntimeError: no driver | 1.0 |" in page(result)
