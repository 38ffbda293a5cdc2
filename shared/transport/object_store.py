"""Read and write large objects in JetStream's object store: complete, verified, and in linear time.

nats-py's own `get` concatenates each chunk to the previous bytes, which takes quadratic time, and never returns when
chunks are missing. Its `put` waits for each chunk to be stored before it sends the next.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections import deque
from contextlib import suppress

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy, Header, ObjectInfo, ObjectMetaOptions, PubAck
from nats.js.errors import APIError, BadObjectMetaError, ObjectNotFoundError
from nats.js.errors import NotFoundError as JetStreamNotFoundError

from accelerator_autopilot.contracts.errors import InvalidInputError, NotFoundError, UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.result_publishing import BUS_ERRORS, not_stored
from accelerator_autopilot.transport.stream_reader import reading

READ_S = 30.0
# The read timeout grows with the object's size; anything slower than this rate is an error.
SLOWEST_BYTES_PER_S = 2**20
# After this much silence, no more chunks will arrive.
SILENCE_S = 10.0
CHUNK_BYTES = 128 * 1024
# Chunks in flight: the server syncs each one, and this keeps it busy meanwhile.
CHUNKS_IN_FLIGHT = 16
_ERRORS = (*BUS_ERRORS, TimeoutError)
# What nats-py raises for metadata that its own client did not write.
_UNREADABLE = (BadObjectMetaError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_NUID = re.compile(r"[A-Za-z0-9_-]{1,100}")


async def read_object(js: JetStreamContext, bucket: str, name: str, most_bytes: int | None = None) -> bytes:
    """Return the content of an object.

    Raises InvalidInputError for one of more than `most_bytes`, NotFoundError when there is none, and
    UnavailableError when it was not read in time or parts are missing: it may be being replaced, so a retry may
    help.
    """
    info = await _info(js, bucket, name)
    size = info.size or 0
    if most_bytes is not None and size > most_bytes:
        raise InvalidInputError(name[:200], f"{size} bytes", f"may have at most {most_bytes} bytes: split it")
    if not size:
        return b""
    within_s = READ_S + size / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(within_s):
            return await _whole(js, bucket, name, info)
    except TimeoutError as error:
        raise UnavailableError(
            f"{bucket}/{name} ({size} bytes) could not be read within {within_s:.0f} s; try again"
        ) from error
    except BUS_ERRORS as error:
        raise UnavailableError(f"{bucket}/{name} could not be read: {type(error).__name__}") from error


async def write_object(js: JetStreamContext, bucket: str, name: str, content: bytes) -> None:
    """Store an object under a name, replacing an existing one.

    Raises UnavailableError when it was not confirmed, BusyError when the store is full.
    """
    stream, part = f"OBJ_{bucket}", new_id()
    try:
        before = await _info(js, bucket, name)
    except NotFoundError:
        before = None
    try:
        try:
            chunks, digest = await _send_chunks(js, stream, f"$O.{bucket}.C.{part}", content)
            info = ObjectInfo(
                name=name,
                bucket=bucket,
                nuid=part,
                size=len(content),
                chunks=chunks,
                digest=digest,
                mtime=utc_now().isoformat(),
                options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES),
            )
            metadata, alone = json.dumps(info.as_dict()).encode(), {Header.ROLLUP.value: "sub"}
            await js.publish(_described_at(bucket, name), metadata, headers=alone, stream=stream)
        except BaseException:
            with suppress(*_ERRORS):
                await js.purge_stream(stream, subject=f"$O.{bucket}.C.{part}")
            raise
        if before is not None:
            await js.purge_stream(stream, subject=f"$O.{bucket}.C.{before.nuid}")
    except _ERRORS as error:
        raise not_stored(f"{bucket}/{name} ({len(content)} bytes)", error) from error


async def _send_chunks(js: JetStreamContext, stream: str, subject: str, content: bytes) -> tuple[int, str]:
    """Store the chunks in order, several in flight; returns their number and the digest of all."""
    digest, waiting, last, count = hashlib.sha256(), deque[asyncio.Task[PubAck]](), 0, 0

    async def confirmed() -> int:
        sequence = (await waiting[0]).seq
        waiting.popleft()
        if sequence <= last:
            raise UnavailableError(f"{stream} stored parts in the wrong order; try again")
        return sequence

    try:
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            digest.update(chunk)
            # One connection preserves the order in which the tasks first run.
            waiting.append(asyncio.create_task(js.publish(subject, chunk)))
            count += 1
            while len(waiting) >= CHUNKS_IN_FLIGHT:
                last = await confirmed()
        while waiting:
            last = await confirmed()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return count, f"SHA-256={_text(digest.digest())}"


async def delete_object(js: JetStreamContext, bucket: str, name: str) -> None:
    """Delete an object; it may be gone already. Raises UnavailableError and the errors of nats-py."""
    try:
        await _info(js, bucket, name)
    except NotFoundError:
        # Foreign metadata is not trusted: with "*" as its chunks, all objects would lose theirs.
        await js.purge_stream(f"OBJ_{bucket}", subject=_described_at(bucket, name))
        return
    try:
        await (await js.object_store(bucket)).delete(name)
    except (ObjectNotFoundError, JetStreamNotFoundError):
        return


async def object_names(js: JetStreamContext, bucket: str) -> list[str]:
    """Return the names of existing objects from their subjects, since their metadata may be unreadable.

    nats-py's own `list` never returns when the last metadata is not JSON. Raises the errors of nats-py.
    """
    config = ConsumerConfig(filter_subject=f"$O.{bucket}.M.>", deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
    found: list[str] = []
    try:
        async with reading(js, f"OBJ_{bucket}", config) as reader:
            async for message in reader.there():
                name = _name_at(message.subject)
                if name and not _is_deleted(message.data):
                    found.append(name)
    except JetStreamNotFoundError:
        return []
    return found


def _described_at(bucket: str, name: str) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _name_at(subject: str) -> str:
    try:
        return base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode()
    except ValueError:
        return ""


def _is_deleted(description: bytes) -> bool:
    try:
        metadata = json.loads(description)
    except (ValueError, RecursionError):
        return False
    return isinstance(metadata, dict) and metadata.get("deleted") is True


async def _info(js: JetStreamContext, bucket: str, name: str) -> ObjectInfo:
    try:
        info = await (await js.object_store(bucket)).get_info(name)
    except (ObjectNotFoundError, JetStreamNotFoundError) as error:
        raise NotFoundError(f"{bucket}/{name} does not exist or has been deleted") from error
    except _UNREADABLE as error:
        raise NotFoundError(f"{bucket}/{name} has a description that cannot be read") from error
    except _ERRORS as error:
        raise UnavailableError(f"{bucket}/{name} could not be looked up: {type(error).__name__}") from error
    if info.name != name or not (_is_count(info.size) and _is_count(info.chunks) and _NUID.fullmatch(str(info.nuid))):
        raise NotFoundError(f"{bucket}/{name} has an invalid description")
    return info


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value < 2**63)


async def _whole(js: JetStreamContext, bucket: str, name: str, info: ObjectInfo) -> bytes:
    subject, stream = f"$O.{bucket}.C.{info.nuid}", f"OBJ_{bucket}"
    expected = info.chunks or 0
    held = ((await js.stream_info(stream, subjects_filter=subject)).state.subjects or {}).get(subject, 0)
    if held < expected:
        raise UnavailableError(f"{bucket}/{name} has {held} of its {expected} parts; try again")
    subscription = await js.subscribe(
        subject, stream=stream, ordered_consumer=True, pending_bytes_limit=2 * (info.size or 0) + 2**26
    )
    parts, digest = [], hashlib.sha256()
    try:
        for _ in range(expected):
            part = (await subscription.next_msg(timeout=SILENCE_S)).data
            # In pieces: hashing it all at once would block the event loop.
            digest.update(part)
            parts.append(part)
    except nats.errors.TimeoutError as error:
        raise UnavailableError(f"no more data of {bucket}/{name} arrived for {SILENCE_S:.0f} s; try again") from error
    finally:
        await _unsubscribe(subscription)
    content = b"".join(parts)
    stored = (info.digest or "").partition("=")[2]
    if len(content) != (info.size or 0) or _text(digest.digest()).rstrip("=") != stored.rstrip("="):
        raise UnavailableError(f"{bucket}/{name} is corrupt: its digest is not the one stored with it")
    return content


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode()


async def _unsubscribe(subscription: JetStreamContext.PushSubscription) -> None:
    try:
        await subscription.unsubscribe()
    except (APIError, nats.errors.Error):
        return
