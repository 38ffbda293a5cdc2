"""Replay detection over a past time span: the same engine and alert lifecycle, on the clock of the samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from accelerator_autopilot.anomaly.domain.alert_lifecycle import AlertLifecycle
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.last_values import Doubles, Floats, Slots
from accelerator_autopilot.anomaly.domain.learned.input_channels import Span
from accelerator_autopilot.anomaly.domain.row_blocks import Block
from accelerator_autopilot.contracts.messages.alerts import Alert

# An open alert is reported again each minute.
CHECK_INTERVAL_S = 30.0


@dataclass(frozen=True)
class Moment:
    """Rows of one moment: `devices` [rows], each at most once, `values` [rows, COLUMNS], NaN where there is none."""

    at_s: float
    devices: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class ReplayedAlert:
    """One alert from its opening to its resolution, if it was resolved."""

    alert: Alert
    opened_s: float
    resolved_s: float | None


class DetectorReplay:
    """An engine and an alert lifecycle over moments in order of time."""

    def __init__(self, watch: DetectionEngine, node: str, period_s: float) -> None:
        self._watch, self._node, self._period_s = watch, node, period_s
        self._book = AlertLifecycle(holding=False)
        self._alerts: dict[str, ReplayedAlert] = {}

    def take(self, moment: Moment) -> None:
        """Process a moment."""
        slots = self._watch.slots(self._node, moment.devices)
        at_s, period_s = np.full(len(slots), moment.at_s), np.full(len(slots), self._period_s)
        self._note(self._watch.rows(slots, at_s, moment.values, period_s, at_s), moment.at_s)
        self._note(self._watch.time(moment.at_s), moment.at_s)

    def take_block(self, block: Block) -> None:
        """Process many moments: with the same result as one after another, in a fraction of the time."""
        found: list[list[Finding]] = [[] for _ in block.moment_s]
        learnable: dict[int, list[Span]] = defaultdict(list)
        for part in block.parts():
            findings, spans = self._watch.rows_of(part)
            for row, finding in findings:
                found[part.moment.flat[row]].append(finding)
            for span in spans:
                columns = np.searchsorted(part.slots, span.slots)
                for moment in np.unique(part.moment[span.row, columns]):
                    learnable[int(moment)].append(span.of(part.moment[span.row, columns] == moment))
        quiet = self._check_moments(block)
        for moment in sorted({*learnable, *quiet, *(m for m, findings in enumerate(found) if findings)}):
            at_s = float(block.moment_s[moment])
            if moment in learnable:
                # Alerts of a moment are evaluated after learning from it, as for a single moment.
                found[moment] += self._watch.learn(at_s, learnable[moment])
            self._note(found[moment], at_s)
            if moment in quiet:
                slots, heard_s = quiet[moment]
                self._watch.hear(slots, heard_s, self._period_s)
                self._note(self._watch.time(at_s), at_s)
        self._record_heard(block)

    def _check_moments(self, block: Block) -> dict[int, tuple[Slots, Doubles]]:
        """Return the moments at which a device falls silent, escalates, or is heard again."""
        everyone = np.arange(len(self._watch.roster))
        heard_s = block.heard_s(everyone, self._watch.heard_s)
        behind_s = np.where(np.isfinite(heard_s), heard_s.max(axis=1, keepdims=True) - heard_s, 0.0)
        late = self._watch.late(behind_s, self._period_s)
        before = np.concatenate([np.full((1, len(everyone)), self._watch.any_silent), late[:-1]])
        turned = (late != before).any(axis=1)
        moments, last_s = {}, -np.inf
        for moment in np.flatnonzero(turned | late.any(axis=1)):
            at_s = block.moment_s[moment]
            if turned[moment] or at_s - last_s >= CHECK_INTERVAL_S:
                moments[int(moment)] = (everyone, heard_s[moment])
                last_s = at_s
        return moments

    def _record_heard(self, block: Block) -> None:
        everyone = np.arange(len(self._watch.roster))
        self._watch.hear(everyone, block.heard_s(everyone, self._watch.heard_s)[-1], self._period_s)

    @property
    def alerts(self) -> list[ReplayedAlert]:
        """Return the alerts so far, in order of their opening."""
        return sorted(self._alerts.values(), key=lambda t: t.opened_s)

    def _note(self, findings: Iterable[Finding], at_s: float) -> None:
        for finding in findings:
            change = self._book.observe(finding, datetime.fromtimestamp(at_s, UTC))
            if change is None:
                continue
            self._watch.note_alerts(change.node, change.device, self._book)
            first = self._alerts.get(change.id)
            opened_s = first.opened_s if first else at_s
            self._alerts[change.id] = ReplayedAlert(change, opened_s, at_s if change.state == "resolved" else None)


def rerun(watch: DetectionEngine, node: str, moments: Iterable[Moment], period_s: float) -> list[ReplayedAlert]:
    """Process every moment; returns the alerts in order of their opening."""
    again = DetectorReplay(watch, node, period_s)
    for moment in moments:
        again.take(moment)
    return again.alerts
