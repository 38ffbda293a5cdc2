"""Reading and writing large objects in JetStream's object store: whole, checked, and in linear time.

nats-py's own `get` adds each chunk to the bytes before it, which takes quadratic time, and never returns when chunks
are missing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy, ObjectInfo
from nats.js.errors import APIError, BadObjectMetaError, ObjectNotFoundError
from nats.js.errors import NotFoundError as JetStreamNotFoundError

from shared.errors import InvalidInputError, NotFoundError, UnavailableError
from shared.storing import BUS_ERRORS, not_stored
from shared.stream_reading import reading

READ_S = 30.0
# A read may take longer the larger the object is; slower than this, something is wrong.
SLOWEST_BYTES_PER_S = 2**20
# Nothing for so long means that no more comes.
SILENCE_S = 10.0
_ERRORS = (*BUS_ERRORS, TimeoutError)
# What nats-py raises over a description that its own client has not written.
_UNREADABLE = (BadObjectMetaError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_NUID = re.compile(r"[A-Za-z0-9_-]{1,100}")


async def read_object(js: JetStreamContext, bucket: str, name: str, most_bytes: int | None = None) -> bytes:
    """The content of an object.

    Raises InvalidInputError for one of more than `most_bytes`, NotFoundError when there is none, and UnavailableError
    when it was not read in time or parts of it are missing: it may be being replaced, so trying again may help.
    """
    info = await _info(js, bucket, name)
    size = info.size or 0
    if most_bytes is not None and size > most_bytes:
        raise InvalidInputError(name[:200], f"{size} bytes", f"may have {most_bytes} bytes: split it")
    if not size:
        return b""
    within_s = READ_S + size / SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(within_s):
            content = await _chunks(js, bucket, name, info)
    except TimeoutError as error:
        raise UnavailableError(
            f"{bucket}/{name} ({size} bytes) was not read in {within_s:.0f} s; trying again may help"
        ) from error
    except BUS_ERRORS as error:
        raise UnavailableError(f"{bucket}/{name} was not read: {type(error).__name__}") from error
    if not _is_whole(content, info):
        raise UnavailableError(f"{bucket}/{name} was read with another digest than it was stored with")
    return content


async def write_object(js: JetStreamContext, bucket: str, name: str, content: bytes) -> None:
    """Store an object under a name, instead of one that is there.

    Raises UnavailableError when it was not confirmed, BusyError when the store has no room.
    """
    try:
        await (await js.object_store(bucket)).put(name, content)
    except _ERRORS as error:
        raise not_stored(f"{bucket}/{name} ({len(content)} bytes)", error) from error


async def delete_object(js: JetStreamContext, bucket: str, name: str) -> None:
    """Delete an object; one that is gone already is fine. Raises UnavailableError and the errors of nats-py."""
    try:
        await _info(js, bucket, name)
    except NotFoundError:
        # Of a foreign description nothing is believed: with "*" for its parts, all objects would lose theirs.
        await js.purge_stream(f"OBJ_{bucket}", subject=_described_at(bucket, name))
        return
    try:
        await (await js.object_store(bucket)).delete(name)
    except (ObjectNotFoundError, JetStreamNotFoundError):
        return


async def object_names(js: JetStreamContext, bucket: str) -> list[str]:
    """Objects that there are, by the names that their subjects tell: what describes them may be unreadable.

    nats-py's own `list` never returns when the last description is no JSON. Raises the errors of nats-py.
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
        told = json.loads(description)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("deleted") is True


async def _info(js: JetStreamContext, bucket: str, name: str) -> ObjectInfo:
    try:
        info = await (await js.object_store(bucket)).get_info(name)
    except (ObjectNotFoundError, JetStreamNotFoundError) as error:
        raise NotFoundError(f"{bucket}/{name} does not exist or has been deleted") from error
    except _UNREADABLE as error:
        raise NotFoundError(f"{bucket}/{name} is described by nothing that can be read") from error
    except _ERRORS as error:
        raise UnavailableError(f"{bucket}/{name} was not looked up: {type(error).__name__}") from error
    if info.name != name or not (_is_count(info.size) and _is_count(info.chunks) and _NUID.fullmatch(str(info.nuid))):
        raise NotFoundError(f"{bucket}/{name} is described by what describes no object")
    return info


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value < 2**63)


async def _chunks(js: JetStreamContext, bucket: str, name: str, info: ObjectInfo) -> bytes:
    subject, stream = f"$O.{bucket}.C.{info.nuid}", f"OBJ_{bucket}"
    expected = info.chunks or 0
    held = ((await js.stream_info(stream, subjects_filter=subject)).state.subjects or {}).get(subject, 0)
    if held < expected:
        raise UnavailableError(f"{bucket}/{name} has {held} of its {expected} parts; trying again may help")
    subscription = await js.subscribe(
        subject, stream=stream, ordered_consumer=True, pending_bytes_limit=2 * (info.size or 0) + 2**26
    )
    try:
        parts = [(await subscription.next_msg(timeout=SILENCE_S)).data for _ in range(expected)]
    except nats.errors.TimeoutError as error:
        raise UnavailableError(
            f"no more of {bucket}/{name} came for {SILENCE_S:.0f} s; trying again may help"
        ) from error
    finally:
        await _unsubscribe(subscription)
    return b"".join(parts)


async def _unsubscribe(subscription: JetStreamContext.PushSubscription) -> None:
    try:
        await subscription.unsubscribe()
    except (APIError, nats.errors.Error):
        return


def _is_whole(content: bytes, info: ObjectInfo) -> bool:
    stored = (info.digest or "").partition("=")[2]
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
    return len(content) == (info.size or 0) and stored.rstrip("=") == digest.rstrip("=")
