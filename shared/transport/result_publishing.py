"""Store what must not be lost in streams that may be full: tell stored, already stored and rejected apart."""

from __future__ import annotations

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import BusyError, UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobResult

BUS_ERRORS = (nats.errors.Error, APIError, OSError)
RETRY_WHEN_FULL_S = 30.0
# nats-server's "store failed" (a limit of the stream), "insufficient resources" (memory, disk of the account) and
# "insufficient storage resources". The first also means that a subject which takes one message already has it.
STORE_FAILED = 10077
_NO_ROOM = {STORE_FAILED, 10023, 10047}


def no_room(error: BaseException) -> bool:
    """Whether a stream rejected a message because a limit is reached."""
    return isinstance(error, APIError) and error.err_code in _NO_ROOM


def not_stored(what: str, error: BaseException) -> UnavailableError:
    """Return the error for a message that was not stored: BusyError where there is no room, else UnavailableError."""
    if no_room(error):
        description = getattr(error, "description", None) or "no room"
        return BusyError(f"{what} was not stored because the stream is full: {description}", RETRY_WHEN_FULL_S)
    return UnavailableError(f"{what} was not confirmed: {error or type(error).__name__}")


async def publish_result(js: JetStreamContext, result: JobResult, body: bytes, ttl_s: float) -> bool:
    """Store the only result of a job; False when the job already has a result.

    RESULTS rejects a second message under a subject with the same error code as any message when it is full, so
    only reading the subject tells. Raises UnavailableError (BusyError when full) when the job has no result
    afterwards, as far as is known.
    """
    subject = subjects.result(result.job_id, result.project)
    try:
        await js.publish(subject, body, stream="RESULTS", msg_ttl=ttl_s)
    except BUS_ERRORS as error:
        if no_room(error) and await _holds_one(js, subject):
            return False
        raise not_stored(f"the result of job {result.job_id}", error) from error
    return True


async def _holds_one(js: JetStreamContext, subject: str) -> bool:
    try:
        # Not a direct read, which a lagging replica may answer.
        await js.get_last_msg("RESULTS", subject)
    except NotFoundError:
        return False
    except BUS_ERRORS as error:
        raise UnavailableError(f"{subject} could not be read: {type(error).__name__}") from error
    return True
