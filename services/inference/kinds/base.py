"""The contract of a job kind. docs/how-to/write-a-job-kind.md says how to write one."""

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
    """Tokens of one job, where its kind counts them."""

    prompt: int = 0
    completion: int = 0


def _silent(*_: Any) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class RunContext:
    """What a kind may use while it runs: its models, and how to tell progress.

    `progress(index, fraction)` and `partial(index, output)` speak about one input of the batch; `attempts[index]`
    counts its attempts from 1; `cancelled(index)` says that nobody waits for it any more; `tokens[index]` is the
    kind's to fill in; `scratch.folder` is a folder that is gone when the batch has ended; `speed()` is that of a
    simulated device under its cap, above 0, and 1 of a real one, whose work slows down by itself.
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
        """The context of some of the batch's inputs."""
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
    """Writes what is told of a part's input into the whole batch's place."""

    def __init__(self, whole: dict[int, Tokens], places: Sequence[int]) -> None:
        super().__init__()
        self._whole, self._places = whole, places

    def __setitem__(self, index: int, value: Tokens) -> None:
        self._whole[self._places[index]] = value


@runtime_checkable
class Kind(Protocol):
    """One kind of job. `run` is called in a thread with inputs that were validated.

    It returns, for each input, the output or the exception that this input caused. `max_batch` is how many inputs one
    call takes at most.
    """

    name: str
    input: type[Input]
    output: type[BaseModel]
    max_batch: int

    def run(self, inputs: Sequence[Any], context: RunContext) -> list[BaseModel | BaseException]:
        """Run a batch."""


class ContinuousKind(Protocol):
    """A kind whose inputs join a running batch at any time: `start` returns at once."""

    name: str
    input: type[Input]
    output: type[BaseModel]

    def start(self, item: Any, context: RunContext) -> Future[BaseModel]:
        """Begin one input."""


def each(run: Callable[[Any, int], T], inputs: Sequence[Any]) -> list[T | BaseException]:
    """Run inputs one by one; an error is its input's own."""
    outputs: list[T | BaseException] = []
    for index, item in enumerate(inputs):
        try:
            outputs.append(run(item, index))
        except BaseException as error:  # noqa: BLE001  one bad input must not take the others with it; polars panics so
            outputs.append(error)
    return outputs
