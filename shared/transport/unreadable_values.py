"""Unreadable values in buckets: they count as absent, and are counted."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts.errors import MalformedMessageError
from accelerator_autopilot.contracts.message_addressing import check_address, key_subject

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

seen: Counter[str] = Counter()


def parse_value(bucket: str, key: str, value: bytes | None, model: type[M]) -> M | None:
    """Return the value of a key, or None where it does not fit the model or the key."""
    try:
        parsed = model.model_validate_json(value or b"")
        check_address(key_subject(bucket, key), parsed)
    except (ValidationError, MalformedMessageError) as error:
        seen[bucket] += 1
        log.warning("unreadable value", extra={"bucket": bucket, "key": key[:200], "error": type(error).__name__})
        return None
    return parsed
