"""`python -m services.inference pool|worker`."""

from __future__ import annotations

import asyncio
import sys

from services.inference.settings import PoolSettings, WorkerSettings
from shared.errors import SettingsError
from shared.logs import setup_logging
from shared.settings import load


def main() -> None:
    """Run the pool or, started by it, a worker."""
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
    else:
        sys.exit("usage: python -m services.inference pool|worker")


if __name__ == "__main__":
    main()
