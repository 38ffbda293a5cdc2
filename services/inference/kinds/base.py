"""The contract of a job kind: one file each, found by its `KIND`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


class Input(BaseModel):
    """Base of a kind's input: unknown fields are a mistake worth telling."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class RunContext:
    """What a kind may use while it runs: its device, its settings, and how to tell progress.

    `progress(index, fraction)` speaks about one input of the batch; `attempt[index]` counts its
    attempts from 1; `cancelled(index)` says that nobody waits for it any more.
    """

    torch_device: str
    torch_threads: int
    embed_model: str
    summarize_model: str | None
    attempts: Sequence[int]
    progress: Callable[[int, float], None]
    cancelled: Callable[[int], bool]


class Kind(Protocol):
    """One kind of job. `run` is called in a thread with inputs that were validated.

    It returns, for each input, the output or the exception that this input caused.
    """

    name: str
    input: type[Input]
    output: type[BaseModel]
    max_batch: int

    def run(self, inputs: Sequence[Any], context: RunContext) -> list[BaseModel | Exception]:
        """Run a batch."""
