"""Messages with sensible defaults."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from accelerator_autopilot.contracts.frames import TelemetryFrame
from accelerator_autopilot.contracts.messages.alerts import Alert, Evidence
from accelerator_autopilot.contracts.messages.commands import PowerCommand
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, DeviceInfo

T0 = datetime(2026, 1, 1, tzinfo=UTC)
WEBHOOK_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def device(**more: Any) -> DeviceInfo:
    base = {
        "device": "gpu-0", "model": "V100", "source": "simulated", "simulated": True,
        "power_min_w": 100.0, "power_max_w": 250.0, "power_default_w": 250.0,
    }  # fmt: skip
    return DeviceInfo.model_validate(base | more)


def power_command(**more: Any) -> PowerCommand:
    base = {
        "id": "c1", "issuer": "test", "reason": "test", "at": T0, "expires_at": at(30), "node": "n1",
        "device": "gpu-0", "cap_w": 150.0, "lease_s": 10.0,
    }  # fmt: skip
    return PowerCommand.model_validate(base | more)


def event(kind: str, seconds: float = 0.0, **more: Any) -> DeviceEvent:
    base = {"id": f"e{seconds}", "node": "n1", "device": "gpu-0", "at": at(seconds), "kind": kind}
    return DeviceEvent.model_validate(base | more)


def alert(**more: Any) -> Alert:
    base = {
        "id": "a1", "node": "n1", "device": "gpu-0", "kind": "thermal", "severity": "critical", "state": "opened",
        "summary": "hot", "opened_at": T0, "at": T0,
        "evidence": [Evidence(metric="temp_c", value=90.0, expected="below 83 °C", at=T0)],
    }  # fmt: skip
    return Alert.model_validate(base | more)


def subscription(url: object = "https://example.com/hook", **more: object) -> Subscription:
    base = {"id": "s1", "url": url, "secret": WEBHOOK_SECRET, "created_at": T0}
    return Subscription.model_validate(base | more)


def frame(
    node: str = "n1", devices: tuple[str, ...] = ("gpu-0",), metrics: tuple[str, ...] = ("power_w",),
    start: datetime = T0, ticks: int = 1, sequence: int = 1, value: float = 1.0,
) -> TelemetryFrame:  # fmt: skip
    values = np.full((ticks, len(devices), len(metrics)), value, dtype=np.float32)
    return TelemetryFrame(
        node=node, start_us=int(start.timestamp() * 1e6), period_s=1.0, devices=devices, metrics=metrics,
        values=values, sequence=sequence, epoch_us=1,
    )  # fmt: skip
