"""`python -m accelerator_autopilot.notifier`."""

from __future__ import annotations

import asyncio

from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime.import_exclusions import leave_out_http_server, leave_out_websockets
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.privilege_drop import drop_privileges
from accelerator_autopilot.runtime.settings import load


def main() -> None:
    """Run the service."""
    settings = load(NotifierSettings)
    setup_logging("notifier", settings.log_level)
    drop_privileges(settings)
    leave_out_websockets(settings.nats_url)
    leave_out_http_server()
    from accelerator_autopilot.notifier.app import create_app  # noqa: PLC0415  what it imports depends on the settings

    asyncio.run(create_app(settings).run())


if __name__ == "__main__":
    main()
