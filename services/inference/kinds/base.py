"""The interface of a job kind; docs/how-to/write-a-job-kind.md explains how to write one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from accelerator_autopilot.contracts.kinds.base import Input
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders

T = TypeVar("T")


@dataclass(frozen=True)
class Tokens:
    """Token counts of one job, where its kind counts them."""

    prompt: int = 0
    completion: int = 0


def _silent(*_: Any) -> None:
    """Discard progress."""


@dataclass(frozen=True)
class RunContext:
    """What a kind may use while it runs: its models, and callbacks to report progress.

    `progress(index, fraction)` and `partial(index, output)` refer to one input of the batch; `attempts[index]`
    counts its attempts from 1; `cancelled(index)` says that its result is no longer wanted; the kind fills in
    `tokens[index]`; `scratch.folder` is a folder that is deleted when the batch ends; `speed()` is the speed of a
    simulated device under its power cap, above 0, and 1 for a real one, whose work slows down by itself.
    """

    models: ModelSettings
    scratch: ScratchFolders
    attempts: Sequence[int]
    progress: Callable[[int, float], None] = _silent
    partial: Callable[[int, Any], None] = _silent
    cancelled: Callable[[int], bool] = lambda _: False
    speed: Callable[[], float] = lambda: 1.0
    tokens: dict[int, Tokens] = field(default_factory=dict)

    def part(self, places: Sequence[int]) -> RunContext:
        """Return the context of some of the batch's inputs."""
        return RunContext(
            models=self.models,
            scratch=self.scratch,
            attempts=[self.attempts[i] for i in places],
            progress=lambda index, fraction: self.progress(places[index], fraction),
            partial=lambda index, output: self.partial(places[index], output),
            cancelled=lambda index: self.cancelled(places[index]),
            speed=self.speed,
            tokens=_Placed(self.tokens, places),
        )


class _Placed(dict[int, Tokens]):
    """Maps a part's indices to those of the whole batch."""

    def __init__(self, whole: dict[int, Tokens], places: Sequence[int]) -> None:
        super().__init__()
        self._whole, self._places = whole, places

    def __setitem__(self, index: int, value: Tokens) -> None:
        self._whole[self._places[index]] = value


@runtime_checkable
class Kind(Protocol):
    """One kind of job.

    `run` is called in a thread with validated inputs. It returns, for each input, the output or the exception that
    this input caused. `max_batch` is the most inputs that one call takes.
    """

    name: str
    input: type[Input]
    output: type[BaseModel]
    max_batch: int

    def run(self, inputs: Sequence[Any], context: RunContext) -> list[BaseModel | BaseException]:
        """Run a batch."""


class ContinuousKind(Protocol):
    """A kind whose inputs join a running batch at any time: `start` returns immediately."""

    name: str
    input: type[Input]
    output: type[BaseModel]

    def start(self, item: Any, context: RunContext) -> Future[BaseModel]:
        """Start one input."""


def each(run: Callable[[Any, int], T], inputs: Sequence[Any]) -> list[T | BaseException]:
    """Run inputs one by one; an error affects only its own input."""
    outputs: list[T | BaseException] = []
    for index, item in enumerate(inputs):
        try:
            outputs.append(run(item, index))
        except BaseException as error:  # noqa: BLE001  one bad input must not take the others with it; polars panics so
            outputs.append(error)
    return outputs
