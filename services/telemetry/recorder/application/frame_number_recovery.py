"""Recount frame numbers that a recorder acknowledged but had not counted when it ended, from the stream."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.telemetry.recorder.domain.frame_sequence import FrameSequence, parse_message_id

log = logging.getLogger(__name__)

IDLE_S = 2.0
# Frames that were reported as written at the last count may have been taken this long before.
SLACK = timedelta(seconds=15)


async def recount(js: JetStreamContext, stream: str, durable: str, since: datetime, tally: FrameSequence) -> int:
    """Record every frame of the stream since `since` that was delivered to a recorder; returns how many.

    A number that is recorded twice counts once, and redelivered frames are recorded by whoever writes them. Only
    headers are read. Raises nats-py's errors.
    """
    info = await js.consumer_info(stream, durable)
    last = (info.delivered.stream_seq if info.delivered else 0) or 0
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_TIME,
        opt_start_time=(since - SLACK).isoformat(),  # type: ignore[arg-type]
        ack_policy=AckPolicy.NONE,
        headers_only=True,
    )
    subscription = await js.subscribe(subjects.FRAMES, stream=stream, ordered_consumer=True, config=config)
    noted = 0
    try:
        while True:
            beat()
            message = await subscription.next_msg(timeout=IDLE_S)
            metadata = message.metadata
            if metadata.sequence.stream > last:
                break
            try:
                node, epoch_us, number = parse_message_id((message.headers or {}).get("Nats-Msg-Id", ""))
            except ValueError:
                # From a publisher that numbers frames differently, or not at all.
                continue
            tally.note(node, epoch_us, number, int(metadata.timestamp.timestamp() * 1e6))
            noted += 1
            if metadata.sequence.stream == last or not metadata.num_pending:
                break
    except nats.errors.TimeoutError:
        # No frame since then.
        return noted
    finally:
        await subscription.unsubscribe()
    return noted
