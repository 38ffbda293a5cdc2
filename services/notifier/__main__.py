"""`python -m services.notifier`."""

from __future__ import annotations

import asyncio

from services.notifier.settings import NotifierSettings
from shared.lean_imports import leave_out_http_server, leave_out_websockets
from shared.logs import setup_logging
from shared.privileges import drop_privileges
from shared.settings import load


def main() -> None:
    """Run the service."""
    settings = load(NotifierSettings)
    setup_logging("notifier", settings.log_level)
    drop_privileges(settings)
    leave_out_websockets(settings.nats_url)
    leave_out_http_server()
    from services.notifier.app import create_app  # noqa: PLC0415  what it imports depends on the settings

    asyncio.run(create_app(settings).run())


if __name__ == "__main__":
    main()
