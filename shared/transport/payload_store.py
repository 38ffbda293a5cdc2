"""Payloads that are too large for a message: JSON in the object store, deleted when their time to live ends.

An object's name starts with the second at which it expires, so that a sweep needs no other record.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from nats.js import JetStreamContext

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError, NotFoundError
from accelerator_autopilot.transport.object_store import delete_object, object_names, read_object, write_object

# For a job's input: while it is read and parsed, its worker does nothing else.
MAX_PAYLOAD_BYTES = 256 * 2**20


async def store_payload(js: JetStreamContext, name: str, payload: dict[str, Any], expires_at: datetime) -> str:
    """Store a JSON object until a time; returns the reference.

    Raises UnavailableError when it was not confirmed, BusyError when there is no room.
    """
    return await store_encoded(js, name, json.dumps(payload).encode(), expires_at)


async def store_encoded(js: JetStreamContext, name: str, encoded: bytes, expires_at: datetime) -> str:
    """Store a JSON object that is already encoded; see above."""
    reference = f"{int(expires_at.timestamp())}-{name}"
    await write_object(js, "payloads", reference, encoded)
    return reference


async def load_payload(js: JetStreamContext, reference: str, most_bytes: int | None = None) -> dict[str, Any]:
    """Load a stored object.

    Raises NotFoundError when it is gone, UnavailableError when it could not be read completely this time, and
    InvalidInputError for one of more than `most_bytes` and for invalid JSON.
    """
    try:
        content = await read_object(js, "payloads", reference, most_bytes)
    except NotFoundError as error:
        raise NotFoundError(f"payload {reference} does not exist: it has expired or was deleted") from error
    try:
        loaded = json.loads(content or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("payload_ref", reference, f"is not valid JSON: {type(error).__name__}") from error
    return loaded if isinstance(loaded, dict) else {}


def job_payload(project: str, job_id: str, claim: int = 0) -> str:
    """Return the name under which a job's own payload is stored; see `Jobs.prepare` about `claim`."""
    return subjects.in_project(project, f"job-{job_id}" + (f"-{claim}" if claim else ""))


def is_own(reference: str, project: str, job_id: str) -> bool:
    """Whether a payload was stored for this job alone; another may be shared, or belong to another job."""
    name, own = reference.partition("-")[2], job_payload(project, job_id)
    return name == own or (name.startswith(f"{own}-") and name.removeprefix(f"{own}-").isdecimal())


async def drop_payload(js: JetStreamContext, reference: str) -> None:
    """Delete a stored object; it may be gone already."""
    await delete_object(js, "payloads", reference)


async def sweep_payloads(js: JetStreamContext, now: datetime) -> int:
    """Delete expired payloads; returns how many. Raises UnavailableError and the errors of nats-py."""
    names = await object_names(js, "payloads")
    expired = [name for name in names if _expires_s(name) <= now.timestamp()]
    for name in expired:
        await drop_payload(js, name)
    return len(expired)


def _expires_s(name: str) -> float:
    seconds = name.split("-", 1)[0]
    return float(seconds) if seconds.isdecimal() else float("inf")
