"""`python -m services.scheduler`."""

from __future__ import annotations

import asyncio

from services.scheduler.app import create_app
from services.scheduler.settings import SchedulerSettings
from shared.logs import setup_logging
from shared.settings import load


def main() -> None:
    """Run the service."""
    settings = load(SchedulerSettings)
    setup_logging("scheduler", settings.log_level)
    asyncio.run(create_app(settings).run())


if __name__ == "__main__":
    main()
