"""A real worker process for tests."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def worker_process(
    nats_url: str, name: str = "w1", **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker that is ready; killed at the end."""
    settings = {"AUTOPILOT_NATS_URL": nats_url, "AUTOPILOT_WORKER": name, "AUTOPILOT_NODE": "n1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "accelerator_autopilot.inference", "worker", env=os.environ | settings | environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        await asyncio.wait_for(process.stdout.readline(), 20)
        reader = asyncio.create_task(process.stdout.read())
        yield process
        reader.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
