"""Running a batch in the device's thread: one bad input alone fails, and a batch too large for the memory is halved."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from services.inference.domain.batching import BatchSizer
from services.inference.errors import RetryableJobError
from services.inference.kinds.base import Kind, RunContext

log = logging.getLogger(__name__)

Outcome = BaseModel | Exception


def run_safely(kind: Kind, inputs: Sequence[Any], context: RunContext, sizer: BatchSizer) -> list[Outcome]:
    """The output of each input, or the error that it caused."""
    count = len(inputs)
    try:
        return kind.run(inputs, context)
    except Exception as error:  # noqa: BLE001  one bad input must not take the others with it
        exhausted = _is_out_of_memory(error)
        if exhausted:
            _free_memory()
            sizer.out_of_memory(count)
            log.warning("out of device memory", extra={"kind": kind.name, "batch": count, "next": sizer.size})
        if count == 1:
            return [RetryableJobError("the device's memory is too small for this job now") if exhausted else error]
    step = (count + 1) // 2 if exhausted else 1
    outcomes: list[Outcome] = []
    for start in range(0, count, step):
        part = range(start, min(start + step, count))
        outcomes += run_safely(kind, [inputs[i] for i in part], context.part(part), sizer)
    return outcomes


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
