"""Faults, quiet, restarts, sources, resets, operators and lost writes in any order: who is out, and why."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from accelerator_autopilot.anomaly.application.message_handlers import Detection
from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.detectors import all_detectors
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.commands import DrainCommand, FleetPolicy
from accelerator_autopilot.contracts.messages.telemetry import NodeInventory
from accelerator_autopilot.scheduler.domain.drain_decisions import (
    CriticalAlerts,
    DrainMemory,
    drains,
    operator_drained,
    operator_restored,
)
from tests.support.builders import at, device, event

NODE = "n1"
GPUS = tuple(f"gpu-{n}" for n in range(4))
POLICY = FleetPolicy(max_drained_fraction=0.5)
HARDWARE, APPLICATION = (48, 79, 95, 119, 154), (13, 31, 43, 94)
names, seconds = st.sampled_from(GPUS), st.sampled_from([1, 12, 60, 700, 4000])


class DrainMachine(RuleBasedStateMachine):
    """A node of four GPUs under a detector, a scheduler and a pool, on a clock of the test."""

    @initialize()
    def begin(self) -> None:
        self.now, self.boot, self.epochs = 0.0, 1, dict.fromkeys(GPUS, 1)
        self.stored: dict[tuple[str, str], Alert] = {}
        self.cordoned: set[tuple[str, str]] = set()
        self.notes_stored: dict[Any, Any] = {}
        self.words: dict[tuple[str, str], DrainCommand] = {}
        self.faulty: set[str] = set()  # needs a reset, by what really happened
        self.overridden: set[str] = set()
        self.by_hand: set[str] = set()
        self.down: set[str] = set()  # sources that fail
        self.start_detector()
        self.start_scheduler()
        self.inventory()
        self.decide()

    def start_detector(self) -> None:
        fleet = SourceTopology()

        async def publish(alert: Alert) -> None:
            key = (alert.device, alert.kind)
            if alert.state == "resolved":
                self.stored.pop(key, None)
            else:
                self.stored[key] = alert

        def keep(alert: Alert) -> None:
            self.stored[alert.device, alert.kind] = alert

        self.detection = Detection(
            DetectionEngine(),
            all_detectors(600.0, fleet),
            AlertLifecycle(),
            publish,
            lambda: at(self.now),
            (),
            fleet,
            keep,
        )
        self.detection.restore(list(self.stored.values()))

    def start_scheduler(self) -> None:
        self.memory = DrainMemory()

    def see(self, kind: str, name: str, **more: Any) -> None:
        told = {"boot_id": f"b{self.boot}", "driver_epoch": f"d{self.epochs[name]}"} if name in GPUS else {}
        asyncio.run(self.detection.on_event(event(kind, self.now, device=name, **told, **more)))

    def inventory(self) -> None:
        listed = [device(device=g, source="nvml", driver_epoch=f"d{self.epochs[g]}") for g in GPUS]
        state = "driver does not answer" if "nvml" in self.down else "ok"
        told = NodeInventory(
            node=NODE, at=at(self.now), period_s=1.0, devices=listed, sources={"nvml": state}, boot_id=f"b{self.boot}"
        )
        asyncio.run(self.detection.on_inventory(told))

    def decide(self, *, lost: bool = False) -> None:
        """Rounds of a scheduler until nothing more is sent; `lost` loses what is sent."""
        fleet = {(NODE, g): (f"b{self.boot}", f"d{self.epochs[g]}") for g in GPUS}
        for _ in range(4):
            critical: dict[tuple[str, str], Any] = {}
            for alert in self.stored.values():
                if alert.severity == "critical":
                    since = alert.worsened_at or alert.opened_at
                    critical[NODE, alert.device] = max(since, critical.get((NODE, alert.device), since))
            sight, now = CriticalAlerts(critical), at(self.now)
            self.memory.notes = dict(self.notes_stored)
            self.memory.update(sight, self.cordoned, (), fleet, [NODE], now)
            held = self.memory.held(sight, now)
            for taken in operator_drained(self.memory.notes, self.words):
                del self.memory.notes[taken]
            decided = drains(
                critical, self.memory.notes, self.cordoned, fleet, POLICY,
                overridden=operator_restored(critical, self.words), held=held,
            )  # fmt: skip
            for decision in decided:
                if decision.action == "drain":
                    self.memory.add(decision.device, fleet[decision.device], now)
            self.notes_stored = dict(self.memory.notes)
            for decision in decided:
                if decision.action is None or lost:
                    continue
                change = self.cordoned.add if decision.action == "drain" else self.cordoned.discard
                change(decision.device)
            self.now += 4.0

    @rule(name=names, code=st.sampled_from(HARDWARE))
    def hardware_fails(self, name: str, code: int) -> None:
        self.faulty.add(name)
        self.overridden.discard(name)
        self.see("xid", name, code=code)
        self.decide()

    @rule(name=names, code=st.sampled_from(APPLICATION))
    def application_fails(self, name: str, code: int) -> None:
        self.see("xid", name, code=code)
        self.decide()

    @rule(passed=seconds)
    def quiet(self, passed: int) -> None:
        self.now += passed
        asyncio.run(self.detection.on_time(at(self.now)))
        self.inventory()
        self.decide()

    @rule()
    def agent_restarts(self) -> None:
        for name in GPUS:
            self.see("appeared", name, cause="agent_started")
        self.down.clear()
        self.inventory()
        self.decide()

    @rule()
    def detector_restarts(self) -> None:
        self.start_detector()
        self.inventory()
        self.decide()

    @rule()
    def scheduler_restarts(self) -> None:
        self.start_scheduler()
        self.decide()

    @rule(kind=st.sampled_from(["lost", "probe_hung"]))
    def source_fails(self, kind: str) -> None:
        self.down.add("nvml")
        for name in GPUS:
            self.see(kind, name)
        self.now += 200.0
        asyncio.run(self.detection.on_time(at(self.now)))
        self.decide()

    @rule()
    def source_returns(self) -> None:
        self.down.clear()
        for name in GPUS:
            self.see("probe_recovered", name)
            self.see("appeared", name, cause="returned")
        self.decide()

    @rule(name=names, proof=st.sampled_from(["event", "inventory"]))
    def reset(self, name: str, proof: str) -> None:
        self.now += 1.0
        self.epochs[name] += 1
        self.faulty.discard(name)
        if proof == "event":
            self.see("appeared", name, cause="reset")
        self.inventory()
        self.decide()

    @rule()
    def reboot(self) -> None:
        self.now += 100.0
        self.boot += 1
        self.faulty.clear()
        for name in GPUS:
            self.epochs[name] += 1
        self.inventory()
        self.decide()

    @rule(name=names, action=st.sampled_from(["restore", "cordon"]))
    def operator(self, name: str, action: Any) -> None:
        self.now += 1.0
        said = DrainCommand(
            id=f"o{self.now}", issuer="anna", reason="r", at=at(self.now), expires_at=at(self.now + 30), node=NODE,
            device=name, action=action,
        )  # fmt: skip
        self.words[NODE, name] = said
        if action == "restore":
            self.cordoned.discard((NODE, name))
            self.overridden.add(name)
            self.by_hand.discard(name)
        else:
            self.cordoned.add((NODE, name))
            self.by_hand.add(name)
        asyncio.run(self.detection.on_command(said))
        self.decide()

    @rule()
    def commands_are_lost(self) -> None:
        self.decide(lost=True)

    @invariant()
    def who_is_out(self) -> None:
        out = {name for _, name in self.cordoned}
        ours = {name for _, name in self.notes_stored} - self.by_hand
        assert len(ours & out) <= 2, "the breaker holds"
        must = self.faulty - self.overridden
        assert must <= out or len(out) >= 2, f"{must - out} works on without a reset"
        self.decide()
        wrongly = {n for n in ours & out if n not in self.faulty}
        assert not wrongly, "what was reset goes back to work"


TestDrainMachine = DrainMachine.TestCase
TestDrainMachine.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


class ReadersOnly(DrainMachine):
    """Nothing ever fails but what reads the devices, and applications: nobody is drained for that."""

    hardware_fails = None  # type: ignore[assignment]
    operator = None  # type: ignore[assignment]

    @invariant()
    def nobody_is_out(self) -> None:
        assert self.cordoned == set()


TestReadersOnly = ReadersOnly.TestCase
TestReadersOnly.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
