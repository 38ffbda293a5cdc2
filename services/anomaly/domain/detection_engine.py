"""All detection on samples: rows in, findings out, for any number of devices at once. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.condition_state import Changes, Conditions
from accelerator_autopilot.anomaly.domain.device_slots import NODE, DeviceSlots
from accelerator_autopilot.anomaly.domain.finding_text import UNUSUAL, anomaly_finding, of_row, stale_finding
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Floats, History, Slots, View
from accelerator_autopilot.anomaly.domain.learned.calibrated_detector import CalibratedDetector, top_metrics
from accelerator_autopilot.anomaly.domain.learned.input_channels import LEARN_S, InputChannels, Span, beside_peers
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Saved
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN, COLUMNS
from accelerator_autopilot.anomaly.domain.row_blocks import Part
from accelerator_autopilot.anomaly.domain.rules import all_rules
from accelerator_autopilot.anomaly.domain.rules.base import Growth, Kind, Rule
from accelerator_autopilot.anomaly.domain.rules.collective import ALONE, CollectiveRule
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology
from accelerator_autopilot.anomaly.domain.staleness import AGENT, ALONE_S, DEVICE, StalenessTracker
from accelerator_autopilot.anomaly.domain.trend_forecast import Trend
from accelerator_autopilot.anomaly.domain.trend_forecast import make as all_trends
from accelerator_autopilot.anomaly.domain.wear_forecast import Wear
from accelerator_autopilot.anomaly.domain.wear_forecast import make as all_wear
from accelerator_autopilot.contracts.messages.alerts import Alert, Severity

CLEARED_SHARE = 0.7


@dataclass
class DetectionEngine:
    """Rules, trends, staleness and the learned detector over one set of device slots."""

    false_alarms_per_week: float = 0.1
    node_timeout_s: float = 10.0
    only: frozenset[str] | None = None
    learn_s: float = LEARN_S
    roster: DeviceSlots = field(default_factory=DeviceSlots)
    fleet: SourceTopology = field(default_factory=SourceTopology)

    def __post_init__(self) -> None:
        self._history, self._channels = History(), InputChannels(self.learn_s)
        self._learned = CalibratedDetector(self.false_alarms_per_week)
        self._rules = [(r, Conditions(r.kind.open_after_s, r.kind.clear_after_s)) for r in all_rules()]
        self._wear = all_wear()
        trends: list[Trend | Wear] = [*all_trends(), *self._wear]
        self._trends = [(t, Conditions(t.kind.open_after_s, t.kind.clear_after_s)) for t in trends]
        self._unusual = Conditions(UNUSUAL.open_after_s, UNUSUAL.clear_after_s)
        self._silence = StalenessTracker(self.node_timeout_s)
        self._silent_devices, self._silent_nodes = Conditions(0.0, 0.0), Conditions(0.0, 0.0)
        self._disturbing = {kind.name for kind, _ in self._all_conditions() if kind.disturbs}
        self._seen = np.zeros(len(COLUMNS), bool)
        self._active: list[tuple[Rule, Conditions]] = []
        self._node_of: Slots = np.empty(0, np.int64)
        self._alerted = np.empty(0, bool)
        self._grow()

    def slots(self, node: str, devices: Sequence[str], simulated: frozenset[str] = frozenset()) -> Slots:
        """Return the slots of a node's devices."""
        before = len(self.roster)
        slots = self.roster.slots(node, devices, simulated)
        if len(self.roster) > len(self._node_of):
            self._grow()
        elif len(self.roster) > before:
            self._node_of[before : len(self.roster)] = self.roster.node_of[before:]
        return slots

    def forget(self, node: str, device: str) -> None:
        """Relearn a device, as after a change of its driver."""
        slot = self.roster.find(node, device)
        if slot is not None:
            slots = np.array([slot])
            self._history.forget(slots)
            self._learned.forget(slots)

    def release(self, node: str, device: str) -> None:
        """Clear counted errors: the device was reset, or an operator vouches for it."""
        slot = self.roster.find(node, device)
        if slot is not None:
            for rule, _ in self._rules:
                if isinstance(rule, Growth):
                    rule.reset(slot)

    def remove(self, node: str, device: str) -> None:
        """Remove a device: it is no longer monitored."""
        slot = self.roster.find(node, device)
        if slot is not None:
            self._silence.forget(slot)
            for kind, conditions in self._all_conditions():
                if kind is not AGENT:
                    conditions.clear(slot)

    def forget_node(self, node: str) -> None:
        """Forget a node without devices: it is not silent."""
        if node in self.roster.node_names:
            number = self.roster.node_names.index(node)
            self._silence.node_heard_s[number] = np.nan
            self._silent_nodes.clear(number)

    def rows(self, slots: Slots, at_s: Doubles, values: Floats, period_s: Doubles, heard_s: Doubles) -> list[Finding]:
        """Process rows, each slot at most once; `values` is [rows, COLUMNS] with NaN for what is missing."""
        view = self._history.advance(slots, at_s, values)
        self._silence.hear(slots, self._node_of[slots], heard_s, period_s)
        findings = self._judged(view)
        if self._wanted(UNUSUAL):
            due = self._channels.add(view, self._node_of[slots])
            if len(due):
                x, spans_s = self._channels.take(view, due, self._node_of[slots])
                findings += self._learn(slots[due], at_s[due], x, spans_s)
        return findings

    def rows_of(self, part: Part) -> tuple[list[tuple[int, Finding]], list[Span]]:
        """Apply rules and trends to rows of several moments; returns findings by row, and what to learn from them."""
        view = self._history.advance_many(part.slots, part.at_s, part.values, part.columns)
        found = self._judged_rows(view)
        spans = self._channels.spans(view, self._node_of[part.slots]) if self._wanted(UNUSUAL) else []
        return found, spans

    def learn(self, at_s: float, spans: Sequence[Span]) -> list[Finding]:
        """Learn from the devices of one moment, and report what is unusual."""
        slots, own, slow_w, period_s = (
            np.concatenate([getattr(span, name) for span in spans]) for name in ("slots", "own", "slow_w", "period_s")
        )
        return self._learn(slots, np.full(len(slots), at_s), beside_peers(own, slow_w, self._node_of[slots]), period_s)

    def hear(self, slots: Slots, heard_s: Doubles, period_s: float) -> None:
        """Record when devices were heard; those that never were are left out."""
        there = np.isfinite(heard_s)
        slots, heard_s = slots[there], heard_s[there]
        order = np.argsort(heard_s, kind="stable")
        period = np.full(len(slots), period_s)
        self._silence.hear(slots[order], self._node_of[slots[order]], heard_s[order], period)

    @property
    def heard_s(self) -> Doubles:
        """Return when each slot was last heard; NaN for never."""
        heard: Doubles = self._silence.heard_s[: len(self.roster)]
        return heard

    def late(self, behind_s: Doubles, period_s: float) -> Bools:
        """Whether devices that are this far behind their node are silent."""
        return behind_s > self._silence.patience_s(period_s)

    @property
    def any_silent(self) -> bool:
        """Whether anything was silent at the last check."""
        count = len(self.roster)
        return bool(self._silent_devices.counts(np.arange(count)).any())

    def _judged(self, view: View) -> list[Finding]:
        return [finding for _, finding in self._judged_rows(view)]

    def _judged_rows(self, view: View) -> list[tuple[int, Finding]]:
        findings: list[tuple[int, Finding]] = []
        for rule, conditions in self._testable(view):
            if self._wanted(rule.kind):
                firing, known = rule.test(view)
                findings += self._tell(view, rule.kind, _updated(conditions, view, firing, known))
        for trend, conditions in self._trends:
            if self._wanted(trend.kind):
                course = trend.test(view)
                changes = _updated(conditions, view, course.firing, course.known)
                findings += self._tell(view, trend.kind, changes, course.reported(trend.unit_s, trend.unit))
        return findings

    def time(self, now_s: float) -> list[Finding]:
        """Check for silence; `now_s` is on the clock of `heard_s`."""
        count = len(self.roster)
        findings: list[Finding] = []
        if self._wanted(DEVICE):
            silent, silent_s = self._silence.silent_devices(self._node_of[:count])
            known = np.isfinite(self._silence.heard_s[:count])
            findings += self._silence_findings(silent, silent_s, known, self._silent_devices, DEVICE, now_s)
        if self._wanted(AGENT):
            silent, silent_s = self._silence.silent_nodes(now_s)
            nodes = len(self.roster.node_names)
            known = np.isfinite(self._silence.node_heard_s[:nodes])
            findings += self._silence_findings(silent, silent_s, known, self._silent_nodes, AGENT, now_s)
        return findings

    def _silence_severity(self, slot: int, silent: frozenset[tuple[str, str]], silent_s: float) -> Severity:
        """Return the severity: critical if only this device is silent, since otherwise its source is the cause."""
        node, device = self.roster.nodes[slot], self.roster.devices[slot]
        others = self.fleet.source_peers(node, device) - {device}
        if self.fleet.source_fails(node, device):
            return "warning"
        if others:
            return "warning" if all((node, other) in silent for other in others) else "critical"
        alone = self.fleet.of(node) is not None and (silent_s < ALONE_S or self.fleet.from_exporter(node, device))
        return "warning" if alone else "critical"

    def restore(self, alert: Alert) -> None:
        """Continue with an alert that was open before a restart."""
        (slot,) = self.slots(alert.node, [alert.device]) if alert.device != NODE else (0,)
        at_s = alert.at.timestamp()
        for kind, conditions in self._all_conditions():
            if kind.name == alert.kind:
                if kind is AGENT:
                    self.slots(alert.node, [NODE])
                    slot = self.roster.node_names.index(alert.node)
                    self._silence.node_heard_s[slot] = at_s
                conditions.hold(int(slot), at_s)

    def join(self, job_groups: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Set the nodes and devices of all jobs that run on several devices."""
        job_group_of = np.full(len(self.roster), ALONE, np.int64)
        for number, (node, devices) in enumerate(job_groups):
            slots = [slot for device in devices if (slot := self.roster.find(node, device)) is not None]
            job_group_of[slots] = number
        for rule, _ in self._rules:
            if isinstance(rule, CollectiveRule):
                rule.join(job_group_of)

    def note_alerts(self, node: str, device: str, book: AlertLifecycle) -> None:
        """Track a device's alerts: while a disturbing one is open, nothing is learned from the device."""
        slot = self.roster.find(node, device)
        if slot is not None:
            self._alerted[slot] = book.has_open(node, device, self._disturbing)

    def snapshot(self) -> dict[str, npt.NDArray[Any]]:
        """Return the learned state, to be saved with the device slots."""
        wear = {f"wear.{w.kind.name}.{key}": t for w in self._wear for key, t in w.snapshot().items()}
        return self._learned.snapshot() | wear

    def load(self, saved: Saved) -> None:
        """Restore a snapshot. Raises InvalidInputError for one of another version."""
        self._learned.load(saved)
        self._learned.grow(len(self._node_of))
        for wear in self._wear:
            own = f"wear.{wear.kind.name}."
            wear.load({key.removeprefix(own): t for key, t in saved.items() if key.startswith(own)})
            wear.grow(len(self._node_of))

    @property
    def bytes_per_device(self) -> int:
        """Memory of the learned state per device."""
        return self._learned.bytes_per_slot

    def last_known(self, slot: int) -> Floats:
        """Return the last known values of a slot, [COLUMNS]."""
        return self._history.held(slot)

    def _testable(self, view: View) -> list[tuple[Rule, Conditions]]:
        """Return rules whose metrics were ever read: most fleets lack half of the metrics."""
        fresh = view.reported() & ~self._seen
        if fresh.any():
            self._seen |= fresh
            self._active = [(r, c) for r, c in self._rules if any(self._seen[COLUMN[name]] for name in r.reads)]
        return self._active

    def _wanted(self, kind: Kind) -> bool:
        return self.only is None or kind.name in self.only

    def _all_conditions(self) -> list[tuple[Kind, Conditions]]:
        known = [(rule.kind, c) for rule, c in self._rules] + [(trend.kind, c) for trend, c in self._trends]
        return [*known, (UNUSUAL, self._unusual), (DEVICE, self._silent_devices), (AGENT, self._silent_nodes)]

    def _grow(self) -> None:
        room = max(64, 2 * len(self.roster))
        self._node_of = np.zeros(room, np.int64)
        self._node_of[: len(self.roster)] = self.roster.node_of
        self._alerted = np.concatenate([self._alerted, np.zeros(room - len(self._alerted), bool)])
        for part in (self._history, self._channels, self._learned, self._silence):
            part.grow(room)
        for rule, _ in self._rules:
            rule.grow(room)
        for trend, _ in self._trends:
            trend.grow(room)
        for _, conditions in self._all_conditions():
            conditions.grow(room)

    def _tell(
        self, view: View, kind: Kind, changes: Changes, more: Mapping[str, Doubles] | None = None
    ) -> list[tuple[int, Finding]]:
        reported = [(row, True) for row in (*changes.opened, *changes.going_on)] + [
            (row, False) for row in changes.ended
        ]
        return [
            (int(r), of_row(self.roster, view, int(r), kind, firing=firing, more=more or {})) for r, firing in reported
        ]

    def _learn(self, slots: Slots, at_s: Doubles, x: Floats, period_s: Doubles) -> list[Finding]:
        period_s = np.maximum(period_s, LEARN_S / 2)
        share, scores, expected = self._learned.step(slots, x, period_s, self._alerted[slots])
        open_ = self._unusual.counts(slots)
        firing = np.where(open_, share > CLEARED_SHARE, share > 1.0)
        changes = self._unusual.update(slots, at_s, firing, np.ones(len(slots), bool))
        reported = [(i, True) for i in (*changes.opened, *changes.going_on)] + [(i, False) for i in changes.ended]
        return [
            anomaly_finding(
                self.roster,
                int(slots[i]),
                float(at_s[i]),
                firing=firing,
                share=float(share[i]),
                why=top_metrics(scores[i], x[i], expected[i]),
            )
            for i, firing in reported
        ]

    def _silence_findings(
        self, silent: Slots, silent_s: Doubles, known: Bools, conditions: Conditions, kind: Kind, now_s: float
    ) -> list[Finding]:
        count = len(known)
        everyone = np.arange(count)
        firing = np.zeros(count, bool)
        firing[silent] = True
        lasting = dict(zip(silent.tolist(), silent_s.tolist(), strict=True))
        # Devices that were not heard since a restart keep their previous state.
        changes = conditions.update(everyone, np.full(count, now_s), firing, known)
        gone = frozenset((self.roster.nodes[i], self.roster.devices[i]) for i in lasting) if kind is DEVICE else None
        at = datetime.fromtimestamp(now_s, UTC)
        findings = []
        for indices, fires in ((changes.opened, True), (changes.going_on, True), (changes.ended, False)):
            for i in indices.tolist():
                seconds = lasting.get(i, 0.0)
                severity = kind.severity if gone is None else self._silence_severity(i, gone, seconds)
                findings.append(stale_finding(self.roster, i, kind, seconds, at, firing=fires, severity=severity))
        return findings


def _updated(conditions: Conditions, view: View, firing: Bools, known: Bools) -> Changes:
    if view.moments == 1:
        return conditions.update(view.slots, view.at_s, firing, known)
    at_s, fires, said = view.grid(view.at_s), view.grid(firing), view.grid(known)
    return conditions.update_many(view.each, at_s, fires, said)
