"""Move a job to its next stage: published there once, and acknowledged here only after that."""

from __future__ import annotations

from contextlib import suppress

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.job_building import MESSAGE_ID, message_id
from accelerator_autopilot.contracts.messages.jobs import Job
from accelerator_autopilot.transport.job_id_claims import WRONG_SEQUENCE, first


async def forward_job(
    js: JetStreamContext, message: Msg, job: Job, target: tuple[str, str, dict[str, str]], body: bytes
) -> bool:
    """Publish to a stream, subject and headers, then acknowledge; False when a job of this id is already there.

    That one may be about to go: it may be a message that a worker forwarded but has not acknowledged yet. So
    nothing is acknowledged then, and the message is redelivered until the job has a result. Raises nats-py's
    errors.
    """
    stream, subject, headers = target
    if stream == "JOBS":
        headers = headers | first(job.id, job.project)
    try:
        ack = await js.publish(subject, body, headers=dict(headers), stream=stream)
        if ack.duplicate:
            if await _is_there(js, job, message.subject):
                return False
            # The stream remembers the ids of deleted messages too, such as a bare publisher's own.
            where = message.metadata
            headers = headers | {MESSAGE_ID: f"{message_id(job)}-{where.stream}-{where.sequence.stream}"}
            ack = await js.publish(subject, body, headers=dict(headers), stream=stream)
    except APIError as error:
        if error.err_code in WRONG_SEQUENCE:
            return False
        raise
    await message.ack()
    return True


async def _is_there(js: JetStreamContext, job: Job, here: str) -> bool:
    """Whether a job is in any stage except the one that it is leaving."""
    for stream, subject in subjects.stages_of_job(job.id, job.project):
        if subject != here:
            with suppress(NotFoundError):
                await js.get_last_msg(stream, subject)
                return True
    return False
