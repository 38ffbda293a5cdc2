"""Renamed settings: a process that finds an old name exits, since it would otherwise ignore the operator's choice."""

from __future__ import annotations

from collections.abc import Iterable

RENAMED = {
    "AUTOPILOT_DECIDE_PERIOD_S": "AUTOPILOT_DECISION_INTERVAL_S",
    "AUTOPILOT_MODELS_WARM": "AUTOPILOT_PRELOAD_KINDS",
    "AUTOPILOT_POOL_FIXED": "AUTOPILOT_EXTERNAL_SCALING",
    "AUTOPILOT_POOL_INITIAL": "AUTOPILOT_INITIAL_WORKERS",
    "AUTOPILOT_REPLAY_EVERY_H": "AUTOPILOT_POLICY_EVALUATION_INTERVAL_H",
    "AUTOPILOT_SILENT_AFTER_S": "AUTOPILOT_NODE_TIMEOUT_S",
    "AUTOPILOT_SUSPECT_AFTER": "AUTOPILOT_SUSPECT_AFTER_FAILURES",
    "AUTOPILOT_TURN_S": "AUTOPILOT_EXCLUSIVE_RUN_S",
    "AUTOPILOT_WORKER_SILENT_S": "AUTOPILOT_WORKER_TIMEOUT_S",
}


def renamed(environment: Iterable[str]) -> list[str]:
    """Return a line with the new name for each old name in the environment."""
    return [f"{old} was renamed: set {RENAMED[old]}" for old in sorted(set(environment) & set(RENAMED))]
