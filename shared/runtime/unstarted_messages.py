"""Give back messages that a FastStream subscriber has fetched but not started when it stops.

FastStream drops them, so that each would wait for its acknowledgement timeout before anybody gets it again.
"""

from __future__ import annotations

from typing import Any

from faststream.nats.subscriber.usecases.stream_pull_subscriber import PullStreamSubscriber

from accelerator_autopilot.runtime.consumers import give_back, left_over

_consume = PullStreamSubscriber.consume
_stop = PullStreamSubscriber.stop


async def _consume_or_give_back(self: PullStreamSubscriber, msg: Any) -> Any:
    if not self.running:
        await give_back([msg])
        return None
    return await _consume(self, msg)


async def _stop_and_give_back(self: PullStreamSubscriber) -> None:
    subscription: Any = self.subscription
    await _stop(self)
    if subscription is not None:
        await give_back(left_over(subscription))


def install() -> None:
    """Patch every pull subscriber of this process; safe to call twice."""
    replaced: Any = PullStreamSubscriber
    replaced.consume, replaced.stop = _consume_or_give_back, _stop_and_give_back
