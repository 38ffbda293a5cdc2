"""Detect device resets: the node rebooted, the driver was reloaded, or a source reported one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from accelerator_autopilot.telemetry.samples import SourceEvent


@dataclass
class ResetWatch:
    """Compares boots and driver loads with the known ones, also from the previous run.

    `seen` holds devices that were reset since they last appeared.
    """

    boot_id: str
    epochs: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @classmethod
    def after(cls, boot_id: str, boot_before: str, epochs_before: Mapping[str, str]) -> ResetWatch:
        """Continue from the previous run: devices that were known in another boot count as reset."""
        booted = bool(boot_id and boot_before and boot_id != boot_before)
        known = {device: "" if booted else epoch for device, epoch in epochs_before.items()}
        return cls(boot_id, known, set(epochs_before) if booted else set())

    def found(self, epochs: Mapping[str, str]) -> list[SourceEvent]:
        """Process a discovery: return each device whose driver was reloaded since."""
        events = []
        for device, epoch in epochs.items():
            before = self.epochs.get(device, "")
            if before and epoch and before != epoch:
                self.seen.add(device)
                events.append(SourceEvent(device, "reset", message="the driver was reloaded"))
            if epoch or device not in self.epochs:
                self.epochs[device] = epoch
        return events

    def process(self, events: Collection[SourceEvent]) -> None:
        """Process events from sources."""
        self.seen |= {event.device for event in events if event.kind == "reset"}

    def cause(self, device: str, *, first: bool) -> str:
        """Return why a device appears now."""
        if device in self.seen:
            self.seen.discard(device)
            return "reset"
        return "agent_started" if first else "returned"
