"""A kind that does to its worker what kernels, drivers and inputs do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, model_serializer

from accelerator_autopilot.contracts.kinds.base import Payload, Result
from accelerator_autopilot.inference.kinds.base import RunContext


class MisbehaveResult(Result):
    """Where it ran."""

    device: str


class Misbehave(Payload[MisbehaveResult]):
    """What to do; `freeze_once` and `hang_once` do it where `marker` is no file yet, and make it one.

    Those that begin with `quote` fail with the marker in the error's text, in a way of devices,
    as a library's error of a value, or when the output is read; `miscount` gives an output too many.
    """

    kind_name = "misbehave"
    result_model = MisbehaveResult

    do: Literal[
        "work",
        "fail",
        "die",
        "freeze",
        "freeze_once",
        "hang",
        "hang_once",
        "quote",
        "quote_value",
        "quote_late",
        "miscount",
    ] = "work"
    marker: str = ""


class UnreadableOutput(BaseModel):
    """One whose text is made only when the output is written."""

    text: str

    @model_serializer
    def write(self) -> dict[str, str]:
        raise OSError(self.text)


class MisbehaveKind:
    name = "misbehave"
    input = Misbehave
    output = MisbehaveResult
    max_batch = int(os.environ.get("MISBEHAVE_BATCH", "1"))

    def run(self, inputs: Sequence[Misbehave], context: RunContext) -> list[BaseModel | BaseException]:
        outputs: list[BaseModel | BaseException] = [self._one(item) for item in inputs]
        return outputs + outputs[:1] if any(item.do == "miscount" for item in inputs) else outputs

    def _one(self, item: Misbehave) -> BaseModel:
        device, do = os.environ.get("AUTOPILOT_WORKER_DEVICE", ""), str(item.do)
        if do.endswith("_once"):
            do = "work" if Path(item.marker).exists() else do.removesuffix("_once")
            Path(item.marker).touch()
        if do == "die":
            os._exit(9)
        if do == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if do == "quote":
            raise RuntimeError(f"cannot work with {item.marker}")
        if do == "quote_value":
            raise ValueError(f"cannot work with {item.marker}")
        if do == "quote_late":
            return UnreadableOutput(text=item.marker)
        if do == "hang":
            time.sleep(3600)
        if do == "fail" or device == os.environ.get("MISBEHAVE_BROKEN_DEVICE"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        time.sleep(0.05)
        return MisbehaveResult(device=device)


KIND = MisbehaveKind()
