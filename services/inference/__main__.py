"""`python -m services.inference pool|worker|sandbox`."""

from __future__ import annotations

import asyncio
import sys

from services.inference.errors import NotConfiguredError
from services.inference.settings import ModelSettings, PoolSettings, WorkerSettings
from shared.errors import SettingsError
from shared.logs import setup_logging
from shared.settings import load


def main() -> None:
    """Run the pool or, started by it, a worker; or say what shuts in code of jobs on this machine."""
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role == "pool":
        from services.inference.app import create_app  # noqa: PLC0415  a worker starts faster without

        settings = load(PoolSettings)
        setup_logging("pool", settings.log_level)
        asyncio.run(create_app(settings).run())
    elif role == "worker":
        from services.inference.worker import run_worker  # noqa: PLC0415  the pool needs none of it

        worker = load(WorkerSettings)
        setup_logging(f"worker {worker.worker}", worker.log_level)
        try:
            sys.exit(asyncio.run(run_worker(worker)))
        except SettingsError as error:
            sys.exit(str(error))
    elif role == "sandbox":
        from services.inference.adapters.sandbox import Sandbox  # noqa: PLC0415  neither of the others needs it here

        models = load(ModelSettings)
        try:
            print(Sandbox(models.sandbox, models.sandbox_uid).description)  # noqa: T201  its answer
        except NotConfiguredError as error:
            sys.exit(str(error))
    else:
        sys.exit("usage: python -m services.inference pool|worker|sandbox")


if __name__ == "__main__":
    main()
