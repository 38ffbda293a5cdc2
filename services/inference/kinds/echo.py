"""echo: return the text, optionally after a delay; for measuring and for trying out a fleet.

On a simulated device the work takes longer while a power cap or heat lowers its clock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.echo import Echo, EchoResult
from accelerator_autopilot.inference.errors import RetryableJobError
from accelerator_autopilot.inference.kinds.base import RunContext

STEP_S = 0.1


class EchoKind:
    """The simplest kind."""

    name = "echo"
    input = Echo
    output = EchoResult
    max_batch = 256

    def run(self, inputs: Sequence[Echo], context: RunContext) -> list[BaseModel | BaseException]:
        """Process the batch one by one."""
        return [self._one(index, item, context) for index, item in enumerate(inputs)]

    def _one(self, index: int, item: Echo, context: RunContext) -> BaseModel | Exception:
        left, now = item.work_s, time.monotonic()
        while left > 0 and not context.cancelled(index):
            speed = context.speed()
            time.sleep(min(STEP_S, left / speed))
            before, now = now, time.monotonic()
            left -= (now - before) * speed
            if item.work_s >= 1:
                context.progress(index, min(1.0, 1 - max(0.0, left) / item.work_s))
        if item.fail == "permanently":
            return InvalidInputError("fail", item.fail, "was asked to fail permanently")
        if item.fail == "always" or (item.fail == "first_attempt" and context.attempts[index] == 1):
            return RetryableJobError(f"was asked to fail attempt {context.attempts[index]}")
        return EchoResult(text=item.text)


KIND = EchoKind()
