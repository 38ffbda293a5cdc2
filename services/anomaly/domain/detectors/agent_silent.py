"""A node whose frames stopped."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from services.anomaly.domain.finding import Finding, QuietDetector, Tick
from shared.messages.alerts import Alert, Evidence

if TYPE_CHECKING:
    from services.anomaly.domain.detectors import Tuning

PERIODS = 5.0


class AgentSilentDetector(QuietDetector):
    """Measures silence on its own clock, so that a node's wrong clock is no silence."""

    name = "agent_silent"

    def __init__(self, silent_after_s: float) -> None:
        self._silent_after_s = silent_after_s
        self._heard: dict[str, tuple[datetime | None, float]] = {}

    def on_tick(self, tick: Tick) -> list[Finding]:
        """The node is heard; when is filled in by the next on_time."""
        self._heard[tick.node] = (None, tick.period_s)
        return []

    def on_time(self, now: datetime) -> list[Finding]:
        """Every node not heard of for too long fires."""
        findings = []
        for node, (heard, period_s) in self._heard.items():
            if heard is None:
                self._heard[node] = (now, period_s)
                heard = now  # noqa: PLW2901  heard since the last call
            silent_s = (now - heard).total_seconds()
            limit_s = max(self._silent_after_s, PERIODS * period_s)
            evidence = Evidence(metric="silent_s", value=silent_s, expected=f"below {limit_s:g} s", at=now)
            findings.append(
                Finding(
                    node,
                    "node",
                    "agent_silent",
                    silent_s > limit_s,
                    evidence=(evidence,),
                    summary=f"no frame for {silent_s:.0f} s",
                    action="check the node and its agent",
                )
            )
        return findings

    def restore(self, alert: Alert) -> None:
        """Wait for a node that was silent before a restart."""
        if alert.kind == self.name:
            self._heard.setdefault(alert.node, (alert.opened_at, 1.0))


def make(tuning: Tuning) -> AgentSilentDetector:
    """Build it."""
    return AgentSilentDetector(tuning.silent_after_s)
