"""Which table a message of each stream goes to, and as which row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nats.aio.msg import Msg

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import MalformedMessageError
from accelerator_autopilot.contracts.message_addressing import check_address
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.base import Message, OwnedMessage
from accelerator_autopilot.contracts.messages.commands import COMMAND_KINDS, CommandOutcome, Recommendation
from accelerator_autopilot.contracts.messages.jobs import DeadJob, JobResult
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent
from accelerator_autopilot.telemetry.recorder.ports import Row

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class StreamTable:
    """A stream, the statement that writes one of its messages, and the message's row."""

    stream: str
    insert: str
    row: Callable[[Msg], Row]

    @property
    def durable(self) -> str:
        """Name of the consumer."""
        return f"recorder-{self.stream.lower()}"


def _insert(table: str, columns: str, conflict: str = "DO NOTHING", key: str = "id") -> str:
    names = ("project", "actor", *columns.split())
    values = ", ".join(f"${i + 1}" for i in range(len(names)))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values}) ON CONFLICT ({key}) {conflict}"  # noqa: S608  our names


def _json(items: Any) -> str:
    return _dumps([i.model_dump(mode="json") if isinstance(i, Message) else i for i in items])


def _read(model: type[M], msg: Msg) -> M:
    """A message that is about what its subject says. Raises ValidationError or MalformedMessageError."""
    message = model.model_validate_json(msg.data)
    check_address(msg.subject, message)
    return message


def _dumps(value: Any) -> str:
    """JSON that PostgreSQL takes: its jsonb cannot hold a NUL."""
    return json.dumps(_without_nul(value))


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value


def _owner(message: OwnedMessage) -> tuple[str, str]:
    return message.project, message.actor


def _event(msg: Msg) -> Row:
    e = _read(DeviceEvent, msg)
    return (*_owner(e), e.id, e.at, e.node, e.device, e.kind, e.code, e.message, e.simulated)


def _alert(msg: Msg) -> Row:
    a = _read(Alert, msg)
    resolved = a.at if a.state == "resolved" else None
    return (
        *_owner(a),
        a.id,
        a.node,
        a.device,
        a.kind,
        a.severity,
        a.state,
        a.summary,
        a.opened_at,
        a.at,
        resolved,
        _json(a.evidence),
        a.simulated,
    )


def _command(msg: Msg) -> Row:
    kind, *target = (subjects.untoken(t) for t in msg.subject.split(".")[1:])
    if kind not in COMMAND_KINDS:
        raise MalformedMessageError("subject", msg.subject, f"is not a command; known are {', '.join(COMMAND_KINDS)}")
    c = _read(COMMAND_KINDS[kind], msg)
    return (
        *_owner(c),
        c.id,
        c.at,
        kind,
        "/".join(target),
        c.issuer,
        c.reason,
        c.expires_at,
        _dumps(c.model_dump(mode="json")),
    )


def _outcome(msg: Msg) -> Row:
    o = _read(CommandOutcome, msg)
    return (
        *_owner(o),
        o.id,
        o.command_id,
        o.at,
        o.command,
        o.target,
        o.status,
        o.detail,
        o.requested,
        o.applied,
        o.read_back,
    )


def _recommendation(msg: Msg) -> Row:
    r = _read(Recommendation, msg)
    return (*_owner(r), r.id, r.at, r.scope, r.action, r.reason, r.expected_effect, r.confidence, _dumps(r.evidence))


def _result(msg: Msg) -> Row:
    r = _read(JobResult, msg)
    # Types of errors only: their texts may quote the job, which must not outlive its time to live.
    error = r.errors[-1].type if r.errors else None
    return (
        *_owner(r),
        r.job_id,
        r.kind,
        r.status,
        r.node,
        r.worker,
        r.device,
        r.attempt,
        r.submitted_at,
        r.started_at,
        r.finished_at,
        error,
        r.submitter,
        *((u.wait_s, u.run_s, u.batch_size, u.prompt_tokens, u.completion_tokens) if (u := r.usage) else [None] * 5),
    )


def _dead(msg: Msg) -> Row:
    d = _read(DeadJob, msg)
    return (
        *_owner(d),
        d.id,
        d.at,
        d.kind,
        d.reason,
        json.dumps([{"attempt": e.attempt, "type": e.type} for e in d.errors]),
    )


def _audit(msg: Msg) -> Row:
    a = _read(AuditRecord, msg)
    return (*_owner(a), a.id, a.at, a.action, a.target, _dumps(a.detail))


_NEWER = (
    "DO UPDATE SET state = excluded.state, severity = excluded.severity, summary = excluded.summary, "
    "updated_at = excluded.updated_at, resolved_at = excluded.resolved_at, evidence = excluded.evidence "
    "WHERE alerts.updated_at <= excluded.updated_at"
)

TABLES: tuple[StreamTable, ...] = (
    StreamTable("EVENTS", _insert("events", "id ts node device kind code message simulated"), _event),
    StreamTable(
        "ALERTS",
        _insert(
            "alerts",
            "id node device kind severity state summary opened_at updated_at resolved_at evidence simulated",
            _NEWER,
        ),
        _alert,
    ),
    StreamTable("COMMANDS", _insert("commands", "id ts kind target issuer reason expires_at body"), _command),
    StreamTable(
        "OUTCOMES",
        _insert("outcomes", "id command_id ts kind target status detail requested applied read_back"),
        _outcome,
    ),
    StreamTable(
        "RECOMMENDATIONS",
        _insert("recommendations", "id ts scope action reason expected_effect confidence evidence"),
        _recommendation,
    ),
    StreamTable(
        "RESULTS",
        _insert(
            "jobs",
            "id kind status node worker device attempt submitted_at started_at finished_at error submitter "
            "wait_s run_s batch_size prompt_tokens completion_tokens",
            key="project, id",
        ),
        _result,
    ),
    StreamTable("DEAD", _insert("dead_jobs", "id ts kind reason errors", key="project, id"), _dead),
    StreamTable("AUDIT", _insert("audit", "id ts action target detail"), _audit),
)
