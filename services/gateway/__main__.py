"""`python -m accelerator_autopilot.gateway`."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import uvicorn

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime.import_exclusions import leave_out_websockets
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.runtime.privilege_drop import Needs, drop_privileges
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.runtime.shutdown import GRACE_S, Ending, end_asked

EXIT_NOT_STARTED = 1


class GatewayServer(uvicorn.Server):
    """Shuts down within its grace period, whatever the broker does; immediately before it serves, or when asked twice.

    Its exit code is then 0, like every service's, whereas uvicorn would raise the signal again.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = Ending(GRACE_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn calls it so
        """Shut down."""
        self._ending.ask()
        if not self.started:
            end_asked("shutdown requested before serving")
        self.should_exit = True


def server_options(settings: GatewaySettings) -> dict[str, Any]:
    """Return uvicorn's options: bounded waits and a bounded number of connections."""
    from accelerator_autopilot.gateway.http.server_protocol import TimedProtocol  # noqa: PLC0415  as the app

    return {
        "host": settings.gateway_host,
        "port": settings.gateway_port,
        "log_config": None,
        "access_log": False,
        "http": TimedProtocol,
        "ws": "none",
        "server_header": False,
        "limit_concurrency": settings.connections,
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": 5,
    }


def main() -> None:
    """Serve until stopped."""
    settings = load(GatewaySettings)
    setup_logging("gateway", settings.log_level)
    drop_privileges(settings, Needs(read=(settings.api_keys_file.absolute(),)))
    leave_out_websockets(settings.nats_url)
    from accelerator_autopilot.gateway.app import create_app  # noqa: PLC0415  what it imports depends on the settings

    try:
        app = create_app(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    server = GatewayServer(uvicorn.Config(app, **server_options(settings)))
    server.run()
    if not server.started:
        sys.exit(EXIT_NOT_STARTED)


if __name__ == "__main__":
    main()
