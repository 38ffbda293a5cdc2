"""How much smaller streams are on a small disk, and when that changes.

The server reserves every stream's size at once. Growing streams at each start, only to be rejected and shrink them
again, would modify each of them for nothing: one request for all of that growth tests it first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nats.js import JetStreamContext
from nats.js.api import ObjectStoreConfig, StreamConfig
from nats.js.errors import NotFoundError, ServerError

log = logging.getLogger(__name__)

NO_STORAGE = 10047  # nats-server's "insufficient storage resources available"
# On a small disk RESULTS shrinks first, down to an eighth, then all streams.
RESULTS, RESULTS_FIRST = "RESULTS", 8
MIN_SCALE = 1 / 64 / RESULTS_FIRST
# A size that differs by less than this share is left unchanged.
CLEAR_SHARE = 0.1


def scaled(config: StreamConfig | ObjectStoreConfig, scale: float) -> int:
    """Return the size of a stream or store where all sizes are scaled by a share; -1 for no limit."""
    size = config.max_bytes or 0
    gives_way = isinstance(config, StreamConfig) and config.name == RESULTS
    share = scale if gives_way else min(1.0, scale * RESULTS_FIRST)
    return int(size * share) if size > 0 else -1


def differs(size: int | None, wanted: int | None) -> bool:
    """Whether a size differs significantly from the desired one."""
    if not (size and wanted and size > 0 and wanted > 0):
        return size != wanted
    return abs(size - wanted) > CLEAR_SHARE * wanted


async def scale_to_start_with(js: JetStreamContext, wanted: Sequence[StreamConfig]) -> float:
    """Return the present scale of these streams or, where the disk has room by now, a larger one.

    Raises the errors of nats-py.
    """
    sizes = await _sizes(js, wanted)
    scale = known_scale(sizes, wanted)
    while scale < 1 and RESULTS in sizes:
        larger = min(1.0, 2 * scale)
        growth = sum(max(0, scaled(s, larger) - sizes[s.name or ""]) for s in wanted if (s.name or "") in sizes)
        if not await _has_room(js, growth):
            break
        scale = larger
    return scale


def known_scale(sizes: Mapping[str, int], wanted: Sequence[StreamConfig]) -> float:
    """Return the power of two that best describes how streams are scaled; 1 where none is significantly smaller.

    RESULTS does not count: its size may be an operator's.
    """
    known = [(sizes.get(s.name or "", -1), s.max_bytes or -1) for s in wanted if s.name != RESULTS]
    least = min((size / full for size, full in known if size > 0 and full > 0), default=1.0)
    if least > 1 - CLEAR_SHARE:
        return 1.0
    return max(MIN_SCALE, 2.0 ** round(math.log2(least / RESULTS_FIRST)))


async def _sizes(js: JetStreamContext, wanted: Sequence[StreamConfig]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for stream in wanted:
        try:
            sizes[stream.name or ""] = (await js.stream_info(stream.name or "")).config.max_bytes or -1
        except NotFoundError:
            continue
    return sizes


async def _has_room(js: JetStreamContext, growth: int) -> bool:
    """Whether the server would reserve this many bytes, tested by growing RESULTS for a moment."""
    before = (await js.stream_info(RESULTS)).config
    if growth <= 0 or (before.max_bytes or -1) < 0:
        return True
    try:
        await js.update_stream(replace(before, max_bytes=(before.max_bytes or 0) + growth))
    except ServerError as error:
        if error.err_code != NO_STORAGE:
            raise
        log.info("the disk has no room for larger streams", extra={"mib": growth // 2**20})
        return False
    await js.update_stream(before)
    return True
