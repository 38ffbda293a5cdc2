"""One example of every message, as the golden files hold them."""

from __future__ import annotations

import importlib
import pkgutil
from datetime import timedelta
from typing import Any

import accelerator_autopilot.contracts.messages
from accelerator_autopilot.contracts.messages.base import Message, OwnedMessage
from accelerator_autopilot.contracts.messages.commands import Command, DeviceCommand, PoolCommand
from tests.support.builders import T0, alert, device, event, power_command

EXPIRES = T0 + timedelta(seconds=30)
COMMAND = {
    "id": "c1",
    "issuer": "scheduler",
    "reason": "backlog",
    "at": T0,
    "expires_at": EXPIRES,
    "fencing_token": 3,
}
ERROR = {"attempt": 1, "type": "RuntimeError", "message": "boom", "worker": "w", "at": T0}
JOB = {"id": "j1", "kind": "echo", "priority": "high", "payload": {"text": "x"}, "submitted_at": T0}
WORKER = {"worker": "w", "device": "gpu-0", "pid": 7, "state": "ready", "started_at": T0, "running": ["j1"]}

EXAMPLES: dict[str, dict[str, Any]] = {
    "DeviceInfo": device().model_dump(),
    "LinkInfo": {"link": 3, "active": True, "speed_mbps": 26562.5, "remote": "00000000:4B:00.0", "errors": 2},
    "ProcessInfo": {"pid": 7, "started_at": T0, "name": "python", "username": "ada", "container": "abababababab",
                    "memory_bytes": 1024},
    "NodeInventory": {"node": "n1", "at": T0, "period_s": 1.0, "devices": [device().model_dump()]},
    "DeviceEvent": event("xid", code=79).model_dump(),
    "SimulationRequest": {"device": "gpu-0", "util": 0.5, "fault": "thermal_runaway", "xid": 79},
    "SimulationReply": {"ok": False, "error": "is not simulated here"},
    "Evidence": alert().evidence[0].model_dump(),
    "Alert": alert().model_dump(),
    "PowerCommand": power_command().model_dump(),
    "ScaleCommand": COMMAND | {"pool": "default", "replicas": 3, "nodes": {"n1": 2, "n2": 1}},
    "DrainCommand": COMMAND | {"node": "n1", "device": "gpu-0", "action": "drain"},
    "BatchCommand": COMMAND | {"pool": "default", "delay_s": 0.2, "lease_s": 60.0},
    "CommandOutcome": {
        "id": "o1", "command_id": "c1", "command": "power", "target": "n1/gpu-0", "status": "applied",
        "requested": 150.0, "applied": 150.0, "read_back": 150.0, "at": T0, "executor": "agent",
    },
    "Recommendation": {
        "id": "r1", "scope": "default", "action": "scale to 2", "reason": "backlog", "expected_effect": "1 to 2",
        "confidence": 0.5, "evidence": {"backlog": 9.0}, "at": T0,
    },
    "Considered": {"policy": "learned", "replicas": 2, "power_level": 0.0, "chosen": True},
    "DecisionRecord": {
        "id": "d1", "pool": "default", "at": T0, "autonomy": "act", "seen": {"waiting": 9.0}, "wanted": 2, "allowed": 2,
        "considered": [{"policy": "learned", "replicas": 2, "power_level": 0.0, "chosen": True}], "reason": "backlog",
        "explanation": "9 jobs waiting", "command_id": "c1",
    },
    "ChampionStatus": {"champion": "learned", "deciding": "reserve", "why": "left its band", "at": T0},
    "TimedValue": {"start": "22:00", "end": "06:00", "value": 0.18},
    "Objective": {"energy": 1.0, "latency": 2.0},
    "PowerBudget": {"watts": 5000.0, "nodes": ["n1", "n2"], "start": "08:00", "end": "20:00"},
    "PoolPolicy": {"floor": 1, "ceiling": 4},
    "FleetPolicy": {"mode": "advise", "power": "all", "pools": {"default": {"ceiling": 8}}},
    "DeviceSet": {"devices": [("n1", "gpu-0")]},
    "DrainNote": {"node": "n1", "device": "gpu-0", "at": T0, "boot_id": "b1", "driver_epoch": "d1", "left": True},
    "DrainNotes": {"notes": [{"node": "n1", "device": "gpu-0", "at": T0}]},
    "JobBody": {"payload": {"text": "x"}},
    "Job": JOB,
    "JobError": ERROR,
    "JobResult": {
        "job_id": "j1", "kind": "echo", "status": "succeeded", "output": {"text": "x"}, "submitted_at": T0,
        "finished_at": T0,
    },
    "JobProgress": {"job_id": "j1", "state": "running", "fraction": 0.5, "at": T0},
    "DeadJob": {
        "id": "j1", "kind": "echo", "reason": "attempts_exhausted", "job": JOB, "errors": [ERROR],
        "subject": "jobs.echo.high.j1", "at": T0,
    },
    "JobNeeds": {"model": "m", "device": "gpu", "memory_bytes": 1024, "devices": 2},
    "JobUsage": {"wait_s": 0.5, "run_s": 0.25, "batch_size": 8, "prompt_tokens": 100, "completion_tokens": 20},
    "Batch": {"id": "b1", "kind": "echo", "count": 3, "submitter": "ada", "submitted_at": T0},
    "JobState": {"cancelled": True, "errors": [ERROR]},
    "WorkerStatus": WORKER,
    "PoolStatus": {"pool": "default", "node": "n1", "at": T0, "desired": 1, "kinds": ["echo"], "workers": [WORKER]},
    "PoisonMessage": {
        "id": "p1", "consumer": "anomaly-events", "stream": "EVENTS", "sequence": 7,
        "subject": "telemetry.events.n1.gpu-0", "headers": {"Nats-Msg-Id": "e1"},
        "body_base64": "e30=", "body_bytes": 2, "error": "ValidationError",
        "reason": "id: Field required", "deliveries": 3, "at": T0,
    },
    "AuditRecord": {"id": "a1", "actor": "tester", "action": "policy.set", "target": "fleet", "at": T0},
    "Silence": {
        "id": "q1", "node": "n*", "kind": "thermal", "starts_at": T0, "ends_at": "2027-01-02T04:04:05Z",
        "reason": "fans", "created_by": "ada",
    },
    "Acknowledgement": {"alert_id": "a1", "by": "ada", "at": T0, "note": "on it"},
    "DeliveryRequest": {"subscription_id": "s1"},
    "DeliveryReply": {"ok": True, "detail": "204 in 12 ms"},
    "Subscription": {"id": "s1", "url": "https://example.com/hook", "secret": "whsec_c2VjcmV0", "created_at": T0},
}  # fmt: skip


ABSTRACT = (Message, OwnedMessage, Command, DeviceCommand, PoolCommand)


def models() -> dict[str, type[Message]]:
    """Every concrete message of accelerator_autopilot.contracts.messages."""
    found: dict[str, type[Message]] = {}
    for info in pkgutil.iter_modules(accelerator_autopilot.contracts.messages.__path__):
        module = importlib.import_module(f"accelerator_autopilot.contracts.messages.{info.name}")
        found |= {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Message) and value not in ABSTRACT
        }
    return found
