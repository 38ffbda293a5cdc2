"""What a process that runs for ever loads: each of these costs tens of megabytes in every one that loads it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp",
    "torch",
    "sqlalchemy",
    "alembic",
    "numpy",
    "faststream",
    "matplotlib",
    "polars",
    "numba",
    "transformers",
}
ALLOWED = {
    "accelerator_autopilot.telemetry.agent.app": {"faststream"},
    "accelerator_autopilot.telemetry.recorder.app": {"faststream", "numpy"},
    "accelerator_autopilot.anomaly.app": {"faststream", "numpy"},
    "accelerator_autopilot.scheduler.app": {"faststream", "numpy"},
    "accelerator_autopilot.notifier.app": {"faststream"},
    "accelerator_autopilot.gateway.app": set(),
    "accelerator_autopilot.inference.pool.app": {"faststream", "numpy"},
    "accelerator_autopilot.inference.worker.app": set(),
    "accelerator_autopilot.cli.app": set(),
}
LOAD = """
import importlib, sys
from accelerator_autopilot.runtime.import_exclusions import leave_out_websockets
leave_out_websockets("nats://127.0.0.1:4222")
importlib.import_module(sys.argv[1])
print(*sorted(name for name in sys.argv[2:] if sys.modules.get(name) is not None))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ALLOWED)
def test_a_process_loads_no_more_than_it_needs_at_rest(module: str) -> None:
    assert loaded(LOAD, module, *HEAVY) <= ALLOWED[module]


def test_aiohttp_can_still_be_had_by_who_needs_it() -> None:
    code = LOAD.replace("importlib.import_module(sys.argv[1])", "import aiohttp, nats.aio.transport")
    assert loaded(code, "", "aiohttp") == {"aiohttp"}


def test_a_websocket_url_loads_it() -> None:
    code = LOAD.replace("nats://", "wss://").replace(
        "importlib.import_module(sys.argv[1])", "import nats.aio.transport"
    )
    assert loaded(code, "", "aiohttp") == {"aiohttp"}
