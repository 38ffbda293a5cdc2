"""Values of buckets that cannot be read: they count as absent, and are counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, ValidationError

from shared.addressing import check_address, key_subject
from shared.errors import MalformedMessageError

log = logging.getLogger(__name__)
M = TypeVar("M", bound=BaseModel)

seen: Counter[str] = Counter()


def parse_value(bucket: str, key: str, value: bytes | None, model: type[M]) -> M | None:
    """The value of a key, or None where it is not one of the model's or about something else than its key says."""
    try:
        parsed = model.model_validate_json(value or b"")
        check_address(key_subject(bucket, key), parsed)
    except (ValidationError, MalformedMessageError) as error:
        seen[bucket] += 1
        log.warning("unreadable value", extra={"bucket": bucket, "key": key[:200], "error": type(error).__name__})
        return None
    return parsed


class UnreadableValues(Collector):
    """`autopilot_kv_unreadable_total`, for the registry of a service."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        """How often a bucket gave a value that could not be read."""
        family = CounterMetricFamily("autopilot_kv_unreadable", "values of buckets not understood", labels=["bucket"])
        for bucket, count in list(seen.items()):
            family.add_metric([bucket], count)
        yield family
