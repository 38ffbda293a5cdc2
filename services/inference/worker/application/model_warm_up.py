"""Loading models before the first job needs them."""

from __future__ import annotations

import logging

from accelerator_autopilot.inference.kinds import registry
from accelerator_autopilot.inference.kinds.base import Kind, RunContext
from accelerator_autopilot.inference.settings import WorkerSettings
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders

log = logging.getLogger(__name__)

LOAD_S = 600.0
SAMPLES: dict[str, dict[str, object]] = {
    "embed": {"texts": ["warm up"]},
    "summarize": {"text": "One sentence to warm up with. Another sentence to warm up with.", "max_sentences": 1},
    "classify": {"texts": ["warm up"], "labels": ["warm", "cold"]},
    "generate": {"prompt": "warm up", "max_tokens": 1},
    "chat": {"messages": [{"role": "user", "content": "warm up"}], "max_tokens": 1},
}


def warm_up(settings: WorkerSettings) -> None:
    """Run a small input of each kind to preload; one that fails is logged and loads with its first job."""
    for name in settings.preload_kinds:
        kind, sample = registry().get(name), SAMPLES.get(name)
        if kind is None or sample is None:
            log.warning("cannot be warmed up", extra={"kind": name})
            continue
        with ScratchFolders(settings.scratch_dir) as scratch:
            context = RunContext(models=settings, scratch=scratch, attempts=[1])
            try:
                item = kind.input.model_validate(sample)
                outcome = (
                    kind.run([item], context)[0]
                    if isinstance(kind, Kind)
                    else kind.start(item, context).result(timeout=LOAD_S)
                )
            except Exception as error:  # noqa: BLE001  a cold worker is better than none
                outcome = error
        if isinstance(outcome, BaseException):
            log.warning("not warmed up", extra={"kind": name, "error": f"{type(outcome).__name__}: {outcome}"})
