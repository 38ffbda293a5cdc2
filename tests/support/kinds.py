"""Job kinds as a worker runs them, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerator_autopilot.inference.kinds import registry
from accelerator_autopilot.inference.kinds.base import RunContext
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.batch_execution import run_safely
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from accelerator_autopilot.inference.worker.domain.batch_sizing import BatchSizer


class Caller:
    """Runs kinds and keeps what they told."""

    def __init__(self, **settings: Any) -> None:
        self.models = ModelSettings(**settings)
        self.told: list[Any] = []
        self.cancelled = False

    def outcome(self, kind: str, /, **payload: Any) -> Any:
        found = registry()[kind]
        item = found.input.model_validate(payload)
        with ScratchFolders(None) as scratch:
            context = RunContext(
                models=self.models, scratch=scratch, attempts=[1], partial=lambda _, piece: self.told.append(piece),
                cancelled=lambda _: self.cancelled,
            )  # fmt: skip
            if hasattr(found, "start"):
                return found.start(item, context).result(timeout=60)
            return run_safely(found, [item], context, BatchSizer(largest=1))[0]

    def together(self, kind: str, payloads: Sequence[dict[str, Any]]) -> list[Any]:
        """The outcome of each job of one batch."""
        found: Any = registry()[kind]
        items = [found.input.model_validate(p) for p in payloads]
        with ScratchFolders(None) as scratch:
            context = RunContext(models=self.models, scratch=scratch, attempts=[1] * len(items))
            return list(run_safely(found, items, context, BatchSizer(largest=len(items))))

    def __call__(self, kind: str, /, **payload: Any) -> Any:
        outcome = self.outcome(kind, **payload)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
