"""A process that loaded a causal model ends when its main thread does, also while it generates."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

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
