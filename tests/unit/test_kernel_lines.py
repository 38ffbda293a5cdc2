"""What the kernel log says of accelerators, in every form, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.anomaly.domain.xid_catalogue import ADVICE, CATALOGUE, UNKNOWN, look_up
from accelerator_autopilot.telemetry.agent.adapters.kernel_log import KernelLog
from accelerator_autopilot.telemetry.agent.domain.kernel_lines import KernelLines, normal_pci
from tests.unit.test_fault_holding import Bench

PCI = "0000:3b:00"
NEW = "\\x0a"  # as /dev/kmsg writes the end of a line within a record
FORMS: list[tuple[str, str | None, str, int | None]] = [
    ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1, name=python, GPU has fallen off the bus.", PCI, "xid", 79),
    ("NVRM: Xid (PCI:0000:3B:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", PCI, "xid", 79),
    ("NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=7, Contained: CE User Channel (0x9).", PCI, "xid", 94),
    ("NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception", PCI, "xid", 13),
    ("NVRM: Xid (PCI:0000:3b:00 GPU-I:07 GPU-CI:00): 43, pid='<unknown>'", PCI, "xid", 43),
    ("NVRM: Xid (0000:3b:00): 14, Channel 00000001", PCI, "xid", 14),
    ("NVRM: Xid (0000:3b:00.0): 8, Channel 00000020", PCI, "xid", 8),
    ("NVRM: Xid (3b:00): 6, PE0002", PCI, "xid", 6),
    ("NVRM: Xid (PCI:0008:01:00): 119, pid=15, Timeout after 6s of waiting for RPC", "0008:01:00", "xid", 119),
    ("NVRM: Xid (PCI:000f:01:00): 31, pid=2210, name=python3, MMU Fault", "000f:01:00", "xid", 31),
    ("NVRM: Xid (PCI:0000:3b:00): 64, pid='N/A', Row Remapper: Failed to remap row", PCI, "xid", 64),
    ("NVRM: Xid (PCI:0000:66:00): abc, pid=2280636", None, "", None),
    ("3,2211,98123456,-;NVRM: Xid (PCI:0000:3b:00): 48, pid=11, DBE (double bit error) at 0x1", PCI, "xid", 48),
    ("NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
     PCI, "xid", 154),
    ("NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x2 (Node Reboot Required) to 0x0 (None)",
     PCI, "reset", 154),
    ("NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x0 (None)",
     PCI, "reset", 154),
    ("NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.", PCI, "xid", 79),
    ("NVRM: GPU at PCI:0000:3b:00: GPU-2b5c", None, "", None),
    (f"NVRM: The NVIDIA GPU 0000:3b:00.0{NEW}NVRM: (PCI ID: 10de:2330) installed{NEW}NVRM: fallen off the bus.", PCI,
     "xid", 79),
    ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 35 egress", "0000:c1:00", "sxid", 12028),
    ("nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", "0000:c3:00", "sxid", 20034),
    ("nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): garbled, Fatal", None, "", None),
    ("amdgpu 0000:83:00.0: amdgpu: GPU reset begin!", "0000:83:00", "reset_started", None),
    ("amdgpu 0000:83:00.0: amdgpu: GPU reset begin!. Source:  1", "0000:83:00", "reset_started", None),
    ("amdgpu 0000:83:00.0: amdgpu: GPU reset(4) succeeded!", "0000:83:00", "reset", None),
    ("amdgpu 0000:83:00.0: amdgpu: GPU reset end with ret = -62", "0000:83:00", "reset_failed", None),
    ("amdgpu 0000:83:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=3, emitted seq=5", "0000:83:00",
     "ring_timeout", None),
    ("amdgpu 0000:83:00.0: [drm] *ERROR* ring sdma0 timeout, but soft recovered", "0000:83:00", "ring_timeout", None),
    ("amdgpu 0000:83:00.0: amdgpu: Ring comp_1.0.1 reset succeeded", "0000:83:00", "ring_reset", None),
    ("amdgpu 0000:83:00.0: amdgpu: 1 uncorrectable hardware errors detected in umc block", "0000:83:00",
     "ras_uncorrected", None),
    ("amdgpu 0000:83:00.0: amdgpu: socket: 0, die: 2 2 new uncorrectable hardware errors detected in gfx block",
     "0000:83:00", "ras_uncorrected", None),
    ("amdgpu 0000:83:00.0: amdgpu: uncorrectable hardware error(ERREVENT_ATHUB_INTERRUPT) detected!", "0000:83:00",
     "ras_uncorrected", None),
    ("amdgpu 0000:83:00.0: amdgpu: 3 correctable hardware errors detected in umc block", "0000:83:00",
     "ras_corrected", None),
    ("amdgpu 0000:83:00.0: amdgpu: 0 uncorrectable hardware errors detected in umc block", None, "", None),
    ("amdgpu 0000:83:00.0: amdgpu: SMU is initialized successfully!", None, "", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "pci", "kind", "code"), FORMS)
def test_each_form_of_a_line_tells_of_its_device(line: str, pci: str | None, kind: str, code: int | None) -> None:
    fact = KernelLines().read(line)
    if pci is None:
        assert fact is None
    else:
        assert fact is not None
        assert (fact.pci, fact.kind, fact.code, fact.switch) == (pci, kind, code, kind == "sxid")


def test_a_gpu_may_be_named_one_line_before_it_is_told_lost() -> None:
    lines = KernelLines()
    told = [lines.read(line) for line in (
        "3,1,1000,-;NVRM: The NVIDIA GPU 0000:3b:00.0",
        "3,2,1001,-;NVRM: (PCI ID: 10de:2330) installed in this system has",
        "3,3,1002,-;NVRM: fallen off the bus and is not responding to commands.",
    )]  # fmt: skip
    assert [fact and (fact.pci, fact.code) for fact in told] == [None, None, (PCI, 79)]
    assert lines.read("3,4,1003,-;NVRM: fallen off the bus and is not responding to commands.") is None


def test_one_loss_told_twice_is_one_and_a_later_one_is_another() -> None:
    lines = KernelLines()
    without = "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus."
    assert lines.read("3,1,1000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.")
    assert lines.read(f"3,2,1000050,-;{without}") is None
    assert lines.read(f"3,3,{1_000_050 + 61_000_000},-;{without}") is not None


def test_the_log_gives_events_of_gpus_and_of_switches(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text("6,1,1,-;start\n")
    log = KernelLog({PCI: "GPU-1"}.get, path)
    log.poll()
    with path.open("a") as file:
        file.write("3,2,2,-;nvidia-nvswitch1: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 1\n")
        file.write("3,3,3,-;NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 95, pid=1\n")
        file.write("3,4,4,-;amdgpu 0000:83:00.0: amdgpu: GPU reset begin!\n")
    assert [(e.device, e.kind, e.code) for e in log.poll()] == [
        ("nvswitch-0000:c1:00", "sxid", 20034), ("GPU-1", "xid", 95),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["00000000:3B:00.0", "0000:3b:00", "3b:00.0", "0000:3B:00.0", " 0:3b:00"])
def test_addresses_are_the_same_whoever_writes_them(text: str) -> None:
    assert normal_pci(text) == PCI


class TestCatalogue:
    @pytest.mark.parametrize("code", [149, *range(155, 174)])
    def test_new_codes_are_known(self, code: int) -> None:
        assert look_up(code) is not UNKNOWN
        assert CATALOGUE[code].action in ADVICE

    @pytest.mark.parametrize(
        ("code", "severity"), [(149, "critical"), (162, "info"), (163, "info"), (164, "info"), (168, "critical")]
    )
    async def test_power_smoothing_drains_nobody(self, code: int, severity: str) -> None:
        bench = Bench()
        await bench.event("xid", code=code)
        [alert] = bench.told
        assert (alert.severity, alert.kind) == (severity, f"xid_{code}")

    async def test_the_third_page_fault_on_one_device_has_another_action(self) -> None:
        bench = Bench()
        for moment in (0.0, 400.0, 800.0):
            bench.now = moment
            await bench.event("xid", code=31)
        worst = bench.told[-1]
        assert (worst.severity, worst.action) == ("warning", ADVICE["drain"])
        assert "hardware is suspect" in worst.summary

    async def test_154_back_to_none_ends_what_it_asked_for(self) -> None:
        bench = Bench()
        await bench.event("xid", code=154, message="changed from 0x0 (None) to 0x1 (GPU Reset Required)")
        assert bench.critical == ["gpu-0 xid_154"]
        bench.now = 5.0
        line = (
            "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
        )
        fact = KernelLines().read(line)
        assert fact is not None
        await bench.event(fact.kind, code=fact.code, message=fact.text)
        assert bench.critical == []


class TestDriverFaults:
    @pytest.mark.parametrize(
        ("kind", "more", "severity", "alert"),
        [
            ("sxid", {"code": 20034, "message": "SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30"}, "critical",
             "sxid_20034"),
            ("sxid", {"code": 12028, "message": "SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 35"}, "warning",
             "sxid_12028"),
            ("ring_timeout", {}, "warning", "ring_timeout"),
            ("reset_started", {}, "warning", "driver_reset"),
            ("reset_failed", {}, "critical", "driver_reset_failed"),
            ("ras_uncorrected", {}, "critical", "ras_uncorrected"),
            ("ras_corrected", {}, "info", "ras_corrected"),
        ],
    )  # fmt: skip
    async def test_each_is_told(self, kind: str, more: dict[str, Any], severity: str, alert: str) -> None:
        bench = Bench()
        await bench.event(kind, **more)
        assert [(a.severity, a.kind, a.state) for a in bench.told] == [(severity, alert, "opened")]
        await bench.until(700.0)
        open_ = [a.kind for a in bench.detection.book.open_alerts]
        assert open_ == ([alert] if severity == "critical" else []), "what needs a reset is held"

    async def test_a_reset_that_succeeded_ends_them(self) -> None:
        bench = Bench()
        await bench.event("ras_uncorrected", message="1 uncorrectable hardware errors detected in umc block")
        bench.now = 10.0
        await bench.event("reset")
        assert bench.detection.book.open_alerts == []

    async def test_a_switch_is_not_taken_for_a_removed_device_and_a_boot_ends_its_fault(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0")
        await bench.event("sxid", device="nvswitch-0000:c1:00", code=20034, message="20034, Fatal", boot_id="b1")
        again = bench.restarted()
        for moment in (30.0, 60.0, 120.0, 180.0):
            again.now = moment
            await again.inventory("gpu-0")
        assert again.critical == ["nvswitch-0000:c1:00 sxid_20034"]
        await again.inventory("gpu-0", boot_id="b2")
        assert again.critical == []
