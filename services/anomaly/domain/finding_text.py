"""Turns the result of a rule, the learned detector or a silence into a finding with text and evidence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from accelerator_autopilot.anomaly.domain.device_slots import NODE, DeviceSlots
from accelerator_autopilot.anomaly.domain.findings import Finding
from accelerator_autopilot.anomaly.domain.last_values import Doubles, View
from accelerator_autopilot.anomaly.domain.rules.base import Kind
from accelerator_autopilot.anomaly.domain.staleness import AGENT
from accelerator_autopilot.contracts.messages.alerts import Evidence, Severity

UNUSUAL = Kind(
    "unusual",
    "warning",
    "",
    "compare with the load, other devices and recent changes",
    (),
    open_after_s=60.0,
    clear_after_s=300.0,
)


def of_row(
    roster: DeviceSlots, view: View, row: int, kind: Kind, *, firing: bool, more: Mapping[str, Doubles]
) -> Finding:
    """Return the finding of a rule or trend in a row; `more` are its own figures, [rows] each."""
    slot = int(view.slots[row])
    at = datetime.fromtimestamp(float(view.at_s[row]), UTC)
    values = {name: float(view.get(name)[row]) for name in kind.metrics}
    values |= {name: float(column[row]) for name, column in more.items()}
    evidence = tuple(
        Evidence(
            metric=name,
            value=value if np.isfinite(value) else None,
            expected=kind.expected if i == 0 else "",
            at=at,
        )
        for i, (name, value) in enumerate(values.items())
        if i == 0 or np.isfinite(value)
    )
    return Finding(
        roster.nodes[slot],
        roster.devices[slot],
        kind.name,
        firing,
        severity=kind.severity,
        summary=kind.summary.format(**values),
        action=kind.action,
        runbook=kind.runbook,
        evidence=evidence,
        simulated=roster.simulated[slot],
        at=at,
        holds=kind.holds and firing,
    )


def anomaly_finding(
    roster: DeviceSlots,
    slot: int,
    at_s: float,
    *,
    firing: bool,
    share: float,
    why: list[tuple[str, float, float, float]],
) -> Finding:
    """Return the finding of the learned detector.

    `share` is the score relative to the threshold, `why` the top metrics.
    """
    at = datetime.fromtimestamp(at_s, UTC)
    first = f"{why[0][0]} is {why[0][2]:g}, usually {why[0][3]:g}" if why else "the combination is unusual"
    evidence = [Evidence(metric="score", value=share, expected="below 1", at=at)]
    evidence += [Evidence(metric=n, value=v, expected=f"about {usual:g}", at=at) for n, _, v, usual in why]
    return Finding(
        roster.nodes[slot],
        roster.devices[slot],
        UNUSUAL.name,
        firing,
        severity=UNUSUAL.severity,
        score=share / (1 + share),
        summary=f"unusual for this device at its load: {first}",
        action=UNUSUAL.action,
        runbook=UNUSUAL.runbook,
        evidence=tuple(evidence),
        simulated=roster.simulated[slot],
        at=at,
    )


def stale_finding(
    roster: DeviceSlots, number: int, kind: Kind, silent_s: float, at: datetime, *, firing: bool, severity: Severity
) -> Finding:
    """Return the finding for a silent device or, with the kind AGENT, a node, by its number."""
    on_node = kind is AGENT
    return Finding(
        roster.node_names[number] if on_node else roster.nodes[number],
        NODE if on_node else roster.devices[number],
        kind.name,
        firing,
        severity=severity,
        summary=kind.summary.format(silent_s=silent_s),
        action=kind.action,
        runbook=kind.runbook,
        evidence=(Evidence(metric="silent_s", value=silent_s, expected=kind.expected, at=at),),
        simulated=False if on_node else roster.simulated[number],
        at=at,
    )
