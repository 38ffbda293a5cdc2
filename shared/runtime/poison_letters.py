"""What is stored of a quarantined message, and the outcome that a command gets for it."""

from __future__ import annotations

import base64
import json

from nats.aio.msg import Msg
from pydantic import TypeAdapter, ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.messages.base import Name, Owner
from accelerator_autopilot.contracts.messages.commands import COMMAND_KINDS, CommandOutcome
from accelerator_autopilot.contracts.messages.poison import MOST_BODY_BYTES, PoisonMessage
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport.clock import utc_now

# What an outcome can contain: an id with a NUL would make the rejection itself unpublishable, forever.
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def explain(error: BaseException) -> str:
    """Describe the error without quoting the message: letters outlive what they are about."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error) if isinstance(error, AutopilotError) else ""


def poison_letter(message: Msg, consumer: str, error: BaseException) -> PoisonMessage:
    """Return the letter for a message of a stream; the same message always yields the same letter."""
    metadata = message.metadata
    sequence = metadata.sequence.stream
    return PoisonMessage(
        project=subjects.project_of(message.subject),
        id=derived_id("poison", consumer, metadata.stream, str(sequence)),
        consumer=consumer,
        stream=metadata.stream,
        sequence=sequence,
        subject=message.subject[:4096],
        headers={k[:200]: v[:2000] for k, v in list((message.headers or {}).items())[:50]},
        body_base64=base64.b64encode(message.data[:MOST_BODY_BYTES]).decode(),
        body_bytes=len(message.data),
        error=type(error).__name__,
        reason=explain(error),
        deliveries=metadata.num_delivered,
        at=utc_now(),
    )


def refusal(message: Msg, executor: str, error: BaseException) -> CommandOutcome | None:
    """Return the outcome of a command that was rejected for its content; None for other messages."""
    prefix, *rest = message.subject.split(".")
    if prefix != "commands" or len(rest) < 2 or rest[0] not in COMMAND_KINDS:
        return None
    identity = f"seq-{message.metadata.sequence.stream}"
    owner: Owner = {"project": DEFAULT_PROJECT, "actor": ""}
    try:
        command = COMMAND_KINDS[rest[0]].model_validate_json(message.data)
        subjects.outcome(command.id)
        identity, owner = command.id, command.owner
    except (ValidationError, ValueError):
        identity = _identity(message.data) or identity
    return CommandOutcome(
        id=derived_id("refused", identity, executor, str(message.metadata.sequence.stream)),
        command_id=identity,
        command=rest[0],
        target="/".join(subjects.untoken(token) for token in rest[1:]),
        status="refused",
        detail=f"{type(error).__name__}: {explain(error)}".removesuffix(": "),
        at=utc_now(),
        executor=executor[:200],
        **owner,
    )


def _identity(body: bytes) -> str | None:
    """Return the id of a command that is otherwise unreadable."""
    try:
        fields = json.loads(body)
        identity: str = _NAME.validate_python(fields.get("id") if isinstance(fields, dict) else None)
        subjects.outcome(identity)
    except (ValueError, RecursionError):
        return None
    return identity
