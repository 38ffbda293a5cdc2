"""Check that a message matches its subject or key: permission to write there covers nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import MalformedMessageError

# The fields that the tokens after a prefix repeat; a job's id takes all remaining ones.
_REPEATED: dict[str, tuple[str, ...]] = {
    "telemetry.frames": ("node",),
    "telemetry.events": ("node", "device"),
    "alerts": ("severity", "node", "device"),
    "commands.power": ("node", "device"),
    "commands.drain": ("node", "device"),
    "commands.scale": ("pool",),
    "commands.batch": ("pool",),
    "outcomes": ("command_id",),
    "decisions": ("id",),
    "recommendations": ("scope",),
    "results": ("job_id",),
    "audit": ("actor",),
    "$KV.inventory": ("node",),
    "$KV.pools": ("pool", "node"),
    "$KV.open_alerts": ("node", "device", "kind"),
    "$KV.acknowledged": ("alert_id",),
    "$KV.batches": ("id",),
    "$KV.subscriptions": ("id",),
    "$KV.silences": ("id",),
}
# Subjects that every project has for itself.
_OF_PROJECTS = frozenset({"jobs", "waiting", "later", "due", "results", "progress", "dead"})


def check_address(subject: str, message: BaseModel | Mapping[str, Any]) -> None:
    """Compare a message with its subject. Raises MalformedMessageError where they differ.

    Fields that the message lacks are not compared: its model defines which are required.
    """
    project, in_project = subjects.split_project(subject)
    prefix, _, rest = in_project.partition(".")
    if prefix in {"telemetry", "commands", "$KV"}:
        second, _, rest = rest.partition(".")
        prefix = f"{prefix}.{second}"
    fields = _REPEATED.get(prefix, ())
    tokens = rest.split(".") if fields else []
    tokens = [subjects.job_id(tokens)] if fields == ("job_id",) else [subjects.untoken(token) for token in tokens]
    if fields and len(fields) != len(tokens):
        raise MalformedMessageError("subject", subject, f"must name {' and '.join(fields)}")
    if prefix in _OF_PROJECTS:
        fields, tokens = (*fields, "project"), [*tokens, project]
    elif in_project != subject:
        raise MalformedMessageError("subject", subject, "must not lie in a project")
    for name, token in zip(fields, tokens, strict=True):
        value = message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)
        if value is not None and str(value) != token:
            raise MalformedMessageError(name, value, f"must match its subject {subject}")


def key_subject(bucket: str, key: str) -> str:
    """Return the subject under which a bucket stores a key."""
    return f"$KV.{bucket}.{key}"
