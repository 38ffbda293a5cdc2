"""A process that loaded a causal model ends when its main thread does, also while it generates."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from accelerator_autopilot.inference import model_loading
from accelerator_autopilot.inference.errors import KindFailedError
from accelerator_autopilot.inference.ports import GenerationRequest
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.model_cache import ModelCache
from tests.support.tiny_models import save_tiny_causal

PROGRAM = """
import sys, threading
from accelerator_autopilot.inference.adapters.transformers_generator import TransformersGenerator
from accelerator_autopilot.inference.ports import GenerationRequest
from accelerator_autopilot.inference.settings import ModelSettings

made = TransformersGenerator(sys.argv[1], ModelSettings(generate_slots=2))
begun = threading.Event()
made.start(GenerationRequest("one two", 200), lambda _: begun.set(), lambda: False)
assert begun.wait(60)
print("begun", flush=True)
sys.exit(7)
"""


@pytest.mark.timeout(180)
async def test_a_process_that_generates_ends_with_its_main_thread(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(save_tiny_causal(tmp_path)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        told = await asyncio.wait_for(process.stdout.readline(), 120)
        if not told:
            raise AssertionError((await process.communicate())[1].decode()[-2000:])
        assert await asyncio.wait_for(process.wait(), 30) == 7
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.timeout(180)
def test_a_generation_loop_that_died_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModelSettings(
        generate_model=str(save_tiny_causal(tmp_path)), generate_slots=2, generate_engine="transformers"
    )
    monkeypatch.setattr(model_loading, "MODEL_CACHE", ModelCache())
    first = model_loading.generator(models, models.generate_model)
    request = GenerationRequest("one two", 5)

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def ignore(_: str) -> None: ...

    monkeypatch.setattr(first._manager, "_generation_step", fail)  # type: ignore[attr-defined]
    with pytest.raises(KindFailedError) as told:
        first.start(request, ignore, lambda: False).result(60)
    assert told.value.of_device
    first._manager._generation_thread.join(30)  # type: ignore[attr-defined]
    with pytest.raises(KindFailedError):
        first.start(request, ignore, lambda: False).result(20)
    second = model_loading.generator(models, models.generate_model)
    assert second is not first
    assert second.start(request, ignore, lambda: False).result(60).completion_tokens > 0
    assert model_loading.generator(models, models.generate_model) is second
