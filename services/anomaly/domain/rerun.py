"""What the detectors would have said of a past span: the same watch and the same book, on the time of the samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from services.anomaly.domain.alert_book import AlertBook
from services.anomaly.domain.finding import Finding
from services.anomaly.domain.history import Floats
from services.anomaly.domain.watch import Watch
from shared.messages.alerts import Alert


@dataclass(frozen=True)
class Moment:
    """Rows of one moment: `devices` [rows], each at most once, `values` [rows, COLUMNS], NaN where there is none."""

    at_s: float
    devices: tuple[str, ...]
    values: Floats


@dataclass(frozen=True)
class Told:
    """One alert from its opening to its end, if it ended."""

    alert: Alert
    opened_s: float
    resolved_s: float | None


class Rerun:
    """A watch and a book over moments in order of time."""

    def __init__(self, watch: Watch, node: str, period_s: float) -> None:
        self._watch, self._node, self._period_s = watch, node, period_s
        self._book = AlertBook(holding=False)
        self._told: dict[str, Told] = {}

    def take(self, moment: Moment) -> None:
        """Show a moment to the watch."""
        slots = self._watch.slots(self._node, moment.devices)
        at_s, period_s = np.full(len(slots), moment.at_s), np.full(len(slots), self._period_s)
        self._note(self._watch.rows(slots, at_s, moment.values, period_s, at_s), moment.at_s)
        self._note(self._watch.time(moment.at_s), moment.at_s)

    @property
    def told(self) -> list[Told]:
        """The alerts so far, in order of their opening."""
        return sorted(self._told.values(), key=lambda t: t.opened_s)

    def _note(self, findings: Iterable[Finding], at_s: float) -> None:
        for finding in findings:
            change = self._book.observe(finding, datetime.fromtimestamp(at_s, UTC))
            if change is None:
                continue
            self._watch.note_alerts(change.node, change.device, self._book)
            first = self._told.get(change.id)
            opened_s = first.opened_s if first else at_s
            self._told[change.id] = Told(change, opened_s, at_s if change.state == "resolved" else None)


def rerun(watch: Watch, node: str, moments: Iterable[Moment], period_s: float) -> list[Told]:
    """Show every moment to the watch; returns the alerts in order of their opening."""
    again = Rerun(watch, node, period_s)
    for moment in moments:
        again.take(moment)
    return again.told
