"""Run a batch in the device's thread: one bad input fails alone, and a batch too large for the memory is halved."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.inference.errors import DeviceMemoryError, KindFailedError
from accelerator_autopilot.inference.kinds.base import Kind, RunContext
from accelerator_autopilot.inference.worker.domain.batch_sizing import BatchSizer

log = logging.getLogger(__name__)

Outcome = BaseModel | BaseException
Told = dict[str, Any] | BaseException

# Errors that Python raises for unsuitable values: any component may be at fault, but not the device.
VALUE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, AssertionError)


def run_safely(kind: Kind, inputs: Sequence[Any], context: RunContext, sizer: BatchSizer) -> list[Outcome]:
    """Return the output of each input, or the error that it caused."""
    count = len(inputs)
    try:
        outputs = _one_each(kind, inputs, context)
        return [judged(kind.name, o) if isinstance(o, BaseException) else o for o in outputs]
    except BaseException as error:  # noqa: BLE001  one bad input must not take the others with it; polars panics so
        exhausted = _is_out_of_memory(error)
        if exhausted:
            _free_memory()
            sizer.out_of_memory(count)
            log.warning("out of device memory", extra={"kind": kind.name, "batch": count, "next": sizer.size})
        if count == 1:
            if exhausted:
                return [DeviceMemoryError("the device has too little free memory for this job")]
            return [judged(kind.name, error)]
    step = (count + 1) // 2 if exhausted else 1
    outcomes: list[Outcome] = []
    for start in range(0, count, step):
        part = range(start, min(start + step, count))
        outcomes += run_safely(kind, [inputs[i] for i in part], context.part(part), sizer)
    return outcomes


def _one_each(kind: Kind, inputs: Sequence[Any], context: RunContext) -> list[Outcome]:
    outputs = list(kind.run(inputs, context))
    if len(outputs) != len(inputs):
        # It is unknown which output belongs to which input, so none counts.
        raise KindFailedError(kind.name, "WrongOutputs", f"it returned {len(outputs)} outputs for {len(inputs)} inputs")
    return outputs


def run_to_json(kind: Kind, inputs: Sequence[Any], context: RunContext, sizer: BatchSizer) -> list[Told]:
    """Return the outputs as JSON, serialised in this thread: a large one must not block the event loop."""
    outcomes = run_safely(kind, inputs, context, sizer)
    return [as_json(kind.name, o) for o in outcomes]


def as_json(kind: str, output: Outcome) -> Told:
    """Serialise an output, or return why it cannot be; errors are returned unchanged."""
    if isinstance(output, BaseException):
        return output
    try:
        return output.model_dump(mode="json")
    except Exception as error:  # noqa: BLE001  what an input led to is the input's
        return judged(kind, error)


def judged(kind: str, error: BaseException) -> AutopilotError:
    """Return an error in the form in which it is reported.

    Only our own errors blame the job; any other is retried elsewhere. The text of other errors may quote the job,
    so only their type and location are reported.
    """
    if isinstance(error, AutopilotError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    name = type(error).__name__
    failed = KindFailedError(kind, name, f"{name} at {place}", of_device=not isinstance(error, VALUE_ERRORS))
    failed.__cause__ = error
    return failed


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
