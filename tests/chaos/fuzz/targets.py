"""Where rubbish is sent: every subject of every stream, what is only published, every bucket and object store."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerator_autopilot.contracts import streams, subjects
from tests.chaos.fuzz.mutations import FACE, frame_message, headers, json_message

GOLDEN = Path(__file__).resolve().parents[2] / "contract" / "golden"
NODE, DEVICE = "testnode", "sim-testnode-0"
KINDS = ("echo", "analyze-logs", "detect-anomalies", "extract", "classify", "embed", "summarize", "generate", "chat",
         "classify-image", "analyze-code", "generate-tests", "benchmark", "nobody-runs-this")  # fmt: skip
PAYLOADS: tuple[dict[str, Any], ...] = (
    {"text": "x", "work_s": 0.01}, {"text": "2026-01-01 00:00:00 ERROR x\n"}, {"rows": [{"a": i} for i in range(5)]},
    {"file": {"name": "a.csv", "text": "a,b\n1,2\n3,4\n5,6\n"}}, {"text": "Ada", "schema": {"properties": {"n": {}}}},
    {"texts": ["a"], "labels": ["b", "c"]}, {"files": [{"name": "a.py", "text": "x = 1\n"}]}, {"archive": "UEsDBA=="},
    {"files": [{"name": "a.png", "base64": "iVBORw0KGgo="}]}, {"code": "def f(x: int):\n    1\n", "timeout_s": 2},
    {"kind": "echo", "payload": {}, "batch_sizes": [1], "repeats": 2}, {"messages": [{"role": "user", "content": "x"}]},
)  # fmt: skip
COMMAND = {"node": NODE, "device": DEVICE, "pool": "default"}


@dataclass(frozen=True)
class Shot:
    """One message."""

    subject: str
    body: bytes
    headers: dict[str, str] | None = None
    reply: str = ""


@dataclass(frozen=True)
class Target:
    """Makes messages for one subject; `name` is under which they are counted."""

    name: str
    make: Callable[[random.Random], Shot]


def golden(name: str) -> dict[str, Any]:
    """The first message of a golden file."""
    found: dict[str, Any] = json.JSONDecoder().raw_decode((GOLDEN / f"{name}.v1.json").read_text())[0]
    return found


def odd_token(chance: random.Random) -> str:
    """A legal token that no name was escaped to."""
    return chance.choice(
        [
            "=00",
            "=ZZ",
            "=",
            "==",
            "x" * 300,
            "-",
            "_",
            "ü",
            FACE,
            "a=2E",
            "%2e",
            subjects.token(FACE * 50),
            "$",
            "~",
            "'",
        ]
    )


def _subject(pattern: str, usual: tuple[str, ...], chance: random.Random) -> str:
    """A subject of a pattern: its wildcards are what is usual, or one of them something else."""
    tokens = list(usual)
    if tokens and chance.random() < 0.15:
        tokens[chance.randrange(len(tokens))] = odd_token(chance)
    if pattern.endswith(">") and chance.random() < 0.1:
        tokens.append(odd_token(chance))
    given = iter(tokens)
    parts = [next(given, "x") if part in {"*", ">"} else part for part in pattern.split(".")]
    return ".".join([*parts, *given])


def _message(pattern: str, model: str, usual: tuple[str, ...], more: dict[str, Any]) -> Callable[[random.Random], Shot]:
    body = golden(model)
    body |= {key: value for key, value in more.items() if key in body or key == "kind"}

    def make(chance: random.Random) -> Shot:
        reply = chance.choice(["", "_INBOX.nobody", "jobs.echo.normal"]) if chance.random() < 0.3 else ""
        return Shot(_subject(pattern, usual, chance), json_message(body, chance), headers(chance), reply)

    return make


def _frame(chance: random.Random) -> Shot:
    node = chance.choice([NODE, NODE, "ghost-1", "ghost-2", FACE * 50])
    subject = _subject(subjects.FRAMES, (subjects.token(node),), chance)
    return Shot(subject, frame_message((GOLDEN / "TelemetryFrame.v1.msgpack").read_bytes(), node, chance))


def _job(pattern: str, *, with_id: bool = True) -> Callable[[random.Random], Shot]:
    def make(chance: random.Random) -> Shot:
        kind = chance.choice(KINDS)
        priority = chance.choice(("high", "normal", "low", "urgent", "never"))
        identity = f"fuzz{chance.randrange(10**9)}"
        body = golden("Job") | {"id": identity, "kind": kind, "priority": priority, "payload": chance.choice(PAYLOADS)}
        if not with_id:
            body |= {"id": None, "kind": None, "priority": None}
        if chance.random() < 0.1:
            body["payload_ref"] = chance.choice(["1-nothing", "9999999999-fuzz", "", "x" * 500])
        if chance.random() < 0.1:
            body["after"] = [chance.choice(["j1", identity, "never", FACE * 60, ""])]
        usual = {
            "jobs": (kind, priority, identity, "1"),
            "waiting": (identity,),
            "later": (identity,),
            "due": (identity,),
        }
        chosen = usual[pattern.split(".", maxsplit=1)[0]][: max(1, pattern.count("*"))]
        return Shot(_subject(pattern, chosen, chance), json_message(body, chance), headers(chance))

    return make


def _in_a_project(target: Target) -> Target:
    """The same below a project, whose name may be none."""

    def make(chance: random.Random) -> Shot:
        shot = target.make(chance)
        project = chance.choice(["vision", "vision", "default", "Vision", odd_token(chance)])
        return replace(shot, subject=f"projects.{project}.{shot.subject}")

    return Target(f"projects.*.{target.name}", make)


def stream_targets() -> list[Target]:
    """Every subject that a stream keeps."""
    messages: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
        subjects.EVENTS: ("DeviceEvent", (NODE, DEVICE), COMMAND),
        subjects.ALERTS: ("Alert", ("critical", NODE, DEVICE), COMMAND),
        "commands.power.*.*": ("PowerCommand", (NODE, DEVICE), COMMAND),
        "commands.drain.*.*": ("DrainCommand", (NODE, DEVICE), COMMAND),
        "commands.scale.*": ("ScaleCommand", ("default",), COMMAND),
        "commands.batch.*": ("BatchCommand", ("default",), COMMAND),
        "commands.>": ("PowerCommand", ("nothing",), COMMAND),
        subjects.OUTCOMES: ("CommandOutcome", ("c1",), {}),
        subjects.RECOMMENDATIONS: ("Recommendation", ("default",), {}),
        subjects.DECISIONS: ("DecisionRecord", ("d1",), {}),
        subjects.DEAD: ("DeadJob", ("echo",), {}),
        subjects.POISON: ("PoisonMessage", ("EVENTS",), {}),
        subjects.AUDIT: ("AuditRecord", ("tester",), {}),
        subjects.RESULTS_OF_BATCHES: ("JobResult", ("b1", "1"), {"job_id": "b1.1"}),
    }
    result = golden("JobResult")

    def results(chance: random.Random) -> Shot:
        identity = f"r{chance.randrange(10**9)}"
        return Shot(subjects.result(identity), json_message(result | {"job_id": identity}, chance), headers(chance))

    made = [
        Target(subjects.FRAMES, _frame),
        *(Target(pattern, _message(pattern, *how)) for pattern, how in messages.items()),
        Target(subjects.RESULTS, results),
        Target(subjects.JOBS, _job(subjects.JOBS, with_id=False)),
        *(Target(p, _job(p)) for p in (subjects.JOBS_WITH_ID, subjects.JOBS_OF_BATCHES)),
        *(Target(p, _job(p)) for p in (subjects.WAITING, subjects.LATER, subjects.DUE)),
    ]
    families = ("jobs", "waiting", "later", "due", "results", "dead")
    return made + [_in_a_project(target) for target in made if target.name.split(".")[0] in families]


def core_targets() -> list[Target]:
    """What is published and kept nowhere."""
    messages: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
        "simulate.*": ("SimulationRequest", (NODE,), COMMAND),
        subjects.PROGRESS: ("JobProgress", ("j1",), {}),
        subjects.DELIVER: ("DeliveryRequest", (), {}),
    }
    return [Target(pattern, _message(pattern, *how)) for pattern, how in messages.items()]


BUCKETS: dict[str, tuple[tuple[str, str], ...]] = {
    "inventory": ((NODE, "NodeInventory"), ("ghost-1", "NodeInventory")),
    "policy": (("fleet", "FleetPolicy"),),
    "jobs": (("j1", "JobState"), ("b1.1", "JobState")),
    "batches": (("b1", "Batch"),),
    "claims": (("j1", "JobBody"),),
    "subscriptions": (("s1", "Subscription"),),
    "silences": (("q1", "Silence"),),
    "acknowledged": (("a1", "Acknowledgement"),),
    "pools": (("default.testnode", "PoolStatus"), ("default.ghost-1", "PoolStatus"), ("ghost.testnode", "PoolStatus")),
    "open_alerts": ((f"{NODE}.{DEVICE}.thermal", "Alert"), ("ghost-1.gpu-0.thermal", "Alert")),
    "cordons": ((NODE, "DeviceSet"), ("ghost-1", "DeviceSet")),
    "carried_out": (("pool.default.testnode", "JobBody"), ("orchestrator", "JobBody")),
    "scheduler": (
        ("drain_notes", "DrainNotes"), ("drained", "DeviceSet"), ("champion", "ChampionStatus"),
        (f"operator.{NODE}.{DEVICE}", "DrainCommand"),
    ),
    "notices": (("s1.a1", "DeliveryRequest"), ("s1", "Alert")),
    "probes": ((NODE, "JobBody"),),
    "leader": (("scheduler", "JobBody"), ("queue", "JobBody")),
}  # fmt: skip
"""The keys that the product uses, and the messages that it keeps there."""


def bucket_targets() -> list[Target]:
    """Every bucket, under keys that the product uses and under others."""
    loopback = {"url": "http://127.0.0.1:9/nobody", "node": NODE, "device": DEVICE, "pool": "default"}

    def target(bucket: str) -> Target:
        def make(chance: random.Random) -> Shot:
            key, model = chance.choice(BUCKETS[bucket])
            known = golden(model)
            known |= {name: value for name, value in loopback.items() if name in known}
            if chance.random() < 0.2:
                key = chance.choice([odd_token(chance), "a.b.c.d"])
            return Shot(f"$KV.{bucket}.{key}", json_message(known, chance), headers(chance))

        return Target(f"$KV.{bucket}.>", make)

    return [target(b.bucket) for b in streams.BUCKETS]


def store_targets() -> list[Target]:
    """Every object store: parts that belong to nothing, and descriptions of objects that are wrong."""
    names = ("9999999999-fuzz", "1-nothing", "scheduler-looks", "x" * 300, FACE)

    def target(bucket: str) -> Target:
        def make(chance: random.Random) -> Shot:
            name = chance.choice(names)
            if chance.random() < 0.3:
                return Shot(f"$O.{bucket}.C.fuzz", chance.randbytes(chance.randrange(300)))
            info = {"name": name, "bucket": bucket, "nuid": "fuzz", "size": 100, "chunks": 1, "digest": "SHA-256=x",
                    "mtime": "2026-01-01T00:00:00Z", "deleted": False, "options": {"link": None}}  # fmt: skip
            encoded = base64.urlsafe_b64encode(name.encode()).decode()
            return Shot(f"$O.{bucket}.M.{encoded}", json_message(info, chance), {"Nats-Rollup": "sub"})

        return Target(f"$O.{bucket}.>", make)

    return [target(store.bucket or "") for store in streams.OBJECT_STORES]


def all_targets() -> list[Target]:
    """Everything."""
    return [*stream_targets(), *core_targets(), *bucket_targets(), *store_targets()]
