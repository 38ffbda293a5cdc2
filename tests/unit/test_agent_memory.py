"""What an agent takes over from the run before it: boots, loads of drivers, the kernel log; and how it ends."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent import app
from accelerator_autopilot.telemetry.agent.adapters.agent_state import AgentState, StateFile
from accelerator_autopilot.telemetry.agent.adapters.boot_identity import driver_epoch
from accelerator_autopilot.telemetry.agent.adapters.kernel_log import KernelLog
from accelerator_autopilot.telemetry.agent.application.inventory_publisher import InventoryPublisher
from accelerator_autopilot.telemetry.agent.domain.device_resets import ResetWatch
from tests.support.builders import T0
from tests.unit.test_power import SIM, Node


class TestResets:
    def test_another_boot_resets_every_device_that_was_known(self) -> None:
        watch = ResetWatch.after("boot-2", "boot-1", {"gpu-0": "boot-1/nvidia/7"})
        assert watch.found({"gpu-0": "boot-2/nvidia/7", "gpu-1": "boot-2/nvidia/7"}) == []
        assert [watch.cause(d, first=True) for d in ("gpu-0", "gpu-1")] == ["reset", "agent_started"]
        assert watch.cause("gpu-0", first=False) == "returned"

    @pytest.mark.parametrize("before", ["boot-1", ""])
    def test_a_restart_of_the_agent_resets_nothing(self, before: str) -> None:
        watch = ResetWatch.after("boot-1", before, {"gpu-0": "boot-1/nvidia/7"})
        assert watch.found({"gpu-0": "boot-1/nvidia/7"}) == []
        assert watch.cause("gpu-0", first=True) == "agent_started"

    def test_a_driver_loaded_anew_while_the_agent_was_down_or_up_is_a_reset(self) -> None:
        watch = ResetWatch.after("boot-1", "boot-1", {"gpu-0": "boot-1/nvidia/7"})
        for epoch in ("boot-1/nvidia/8", "boot-1/nvidia/9"):
            assert [(e.device, e.kind) for e in watch.found({"gpu-0": epoch})] == [("gpu-0", "reset")]
            assert watch.found({"gpu-0": epoch}) == []

    def test_an_epoch_that_cannot_be_told_for_a_while_is_no_reset(self) -> None:
        watch = ResetWatch.after("boot-1", "boot-1", {"gpu-0": "boot-1/nvidia/7"})
        assert watch.found({"gpu-0": ""}) == []
        assert watch.found({"gpu-0": "boot-1/nvidia/7"}) == []

    def test_each_load_of_a_module_has_its_own_epoch(self, tmp_path: Path) -> None:
        (tmp_path / "nvidia").mkdir()
        before = driver_epoch("nvidia", "boot-1", tmp_path)
        assert before.startswith("boot-1/nvidia/")
        (tmp_path / "nvidia").rename(tmp_path / "unloaded")
        assert driver_epoch("nvidia", "boot-1", tmp_path) == ""
        (tmp_path / "nvidia").mkdir()
        assert driver_epoch("nvidia", "boot-1", tmp_path) not in {before, ""}


class TestKernelLog:
    def log(self, path: Path, **more: Any) -> KernelLog:
        return KernelLog({"0000:3b:00": "GPU-1"}.get, path, **more)

    def write(self, path: Path, *records: tuple[int, int]) -> Path:
        lines = [f"4,{n},99,-;NVRM: Xid (PCI:0000:3b:00): {code}, pid=1, name=python" for n, code in records]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def test_xids_that_came_while_the_agent_was_down_are_told_once(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "kmsg", (1, 31), (2, 48), (3, 79))
        log = self.log(path, reported=1, boot_id="b")
        assert [(e.code, e.occurrence) for e in log.poll()] == [(48, "b:2"), (79, "b:3")]
        assert log.sequence == 3
        assert self.log(path, reported=log.sequence, boot_id="b").poll() == []

    def test_the_first_run_begins_at_the_end_and_one_of_another_boot_at_the_beginning(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "kmsg", (1, 31), (2, 48))
        first = self.log(path)
        assert (first.poll(), first.sequence) == ([], 2)
        assert [e.code for e in self.log(path, whole=True).poll()] == [31, 48]


class TestStateFile:
    def test_what_one_run_knew_the_next_takes_up(self, tmp_path: Path) -> None:
        state = AgentState("boot-1", {"gpu-0": "e"}, 7, {"0000:3b:00": "gpu-0"})
        StateFile(tmp_path / "new" / "agent.json").save(state)
        assert StateFile(tmp_path / "new" / "agent.json").load() == state

    @pytest.mark.parametrize("content", [b"", b'{"boot_id"', b"[]", b"null", b"\xff", b"[" * 100_000, b'{"epochs": 1}'])
    def test_an_unreadable_one_is_as_good_as_none(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "agent.json"
        path.write_bytes(content)
        assert StateFile(path).load() == AgentState()

    def test_a_full_disk_is_made_up_for(self, tmp_path: Path) -> None:
        blocked = tmp_path / "folder"
        blocked.write_text("a file where a folder should be")
        file = StateFile(blocked / "agent.json")
        file.save(AgentState("boot-1"))
        blocked.unlink()
        file.save(AgentState("boot-1"))
        assert file.load().boot_id == "boot-1"


async def test_a_malformed_inventory_is_replaced() -> None:
    written: list[NodeInventory] = []

    async def read(*_: Any) -> None:
        NodeInventory.model_validate_json(b'{"node": 5}')

    async def write(_: str, __: str, value: NodeInventory) -> None:
        written.append(value)

    with pytest.raises(ValidationError):
        await read()
    bus: Any = SimpleNamespace(read=read, write=write)
    health = HealthState("agent")
    ours = NodeInventory(node="n1", at=T0, period_s=1.0, sources={}, devices=[], agent_epoch_us=1)
    await InventoryPublisher(bus, health).put(ours)
    assert written == [ours]
    assert "node name" not in health.ready()[1]


class TestEnd:
    async def test_caps_are_given_back_without_a_broker(self, tmp_path: Path) -> None:
        node = Node(tmp_path)
        await node.cap(clock_mhz=1000.0)
        await app.give_back(node.power)
        assert (node.driver.state(), node.kept()) == ((250.0, None), [])

    async def test_a_frozen_driver_does_not_hold_the_end_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app, "GIVE_BACK_S", 0.05)
        node = Node(tmp_path)
        await node.cap()
        node.driver.slow_s = 0.5
        began = time.monotonic()
        await app.give_back(node.power)
        assert time.monotonic() - began < 0.4
        assert node.kept() == [SIM]
