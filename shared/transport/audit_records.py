"""Audit records: who did what, written before it is done."""

from __future__ import annotations

import nats.errors
from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport.clock import utc_now

SHORT = 200


def record(actor: str, action: str, target: str = "", project: str = DEFAULT_PROJECT, /, **detail: str) -> AuditRecord:
    """Create a record with the current time."""
    return AuditRecord(
        id=new_id(), project=project, actor=actor, action=action, target=target[:SHORT], detail=detail, at=utc_now()
    )


async def write(js: JetStreamContext, entry: AuditRecord) -> None:
    """Write a record to the audit stream. Raises UnavailableError when it is not confirmed."""
    try:
        body = entry.model_dump_json().encode()
        await js.publish(subjects.audit(entry.actor), body, headers={"Nats-Msg-Id": entry.id})
    except (nats.errors.Error, OSError) as error:
        raise UnavailableError(f"{entry.action} could not be written to the audit: {type(error).__name__}") from error
