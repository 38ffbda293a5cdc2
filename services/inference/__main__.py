"""`python -m accelerator_autopilot.inference pool|worker|sandbox`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.inference.errors import NotConfiguredError
from accelerator_autopilot.inference.settings import ModelSettings, PoolSettings, WorkerSettings
from accelerator_autopilot.runtime.import_exclusions import leave_out_http_server, leave_out_websockets
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.privilege_drop import Needs, drop_privileges
from accelerator_autopilot.runtime.settings import ServiceSettings, load

LAST_RESORT_S = 5.0


def main() -> None:
    """Run the pool or a worker process, or report which sandbox this machine offers for submitted code."""
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role == "pool":
        settings = load(PoolSettings)
        leave_out_websockets(settings.nats_url)
        leave_out_http_server()
        from accelerator_autopilot.inference.pool.app import create_app  # noqa: PLC0415  a worker starts faster without

        setup_logging("pool", settings.log_level)
        drop_privileges(settings, _needs(settings))
        asyncio.run(create_app(settings).run())
    elif role == "worker":
        worker = load(WorkerSettings)
        leave_out_websockets(worker.nats_url)
        from accelerator_autopilot.inference.worker.app import (  # noqa: PLC0415  the pool needs none of it
            end_by_itself_later,
            run_worker,
        )

        end_by_itself_later()
        setup_logging(f"worker {worker.worker}", worker.log_level)
        drop_privileges(worker, _needs(worker, worker.scratch_dir))
        try:
            sys.exit(asyncio.run(_work(run_worker(worker))))
        except SettingsError as error:
            sys.exit(str(error))
    elif role == "sandbox":
        from accelerator_autopilot.inference.adapters.sandbox import Sandbox  # noqa: PLC0415  neither of the others needs it here

        models = load(ModelSettings)
        drop_privileges(load(ServiceSettings), home=False)
        try:
            print(Sandbox(models.sandbox, models.sandbox_uid).description)  # noqa: T201  its answer
        except NotConfiguredError as error:
            sys.exit(str(error))
    else:
        sys.exit("usage: python -m accelerator_autopilot.inference pool|worker|sandbox")


async def _work(work: Coroutine[Any, Any, int]) -> int:
    """Run a worker and return its exit code; a hanging thread does not keep the process alive."""
    code = await work
    last_resort = threading.Timer(LAST_RESORT_S, os._exit, [code])
    last_resort.daemon = True
    last_resort.start()
    return code


def _needs(settings: PoolSettings, scratch: Path | None = None) -> Needs:
    folders = tuple(Path(name).absolute() for name in settings.offered if Path(name).exists())
    return Needs(read=folders, write=(scratch.absolute(),) if scratch else ())


if __name__ == "__main__":
    main()
