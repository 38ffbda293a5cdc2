"""`python -m services.gateway`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from services.gateway.app import create_app
from services.gateway.protocol import TimedProtocol
from services.gateway.settings import GatewaySettings
from shared.errors import SettingsError
from shared.logs import setup_logging
from shared.privileges import Needs, drop_privileges
from shared.settings import load


def server_options(settings: GatewaySettings) -> dict[str, Any]:
    """How uvicorn serves: no connection waits for ever, and there are only so many."""
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
    """Serve until told to stop."""
    settings = load(GatewaySettings)
    setup_logging("gateway", settings.log_level)
    drop_privileges(settings, Needs(read=(settings.api_keys_file.absolute(),)))
    try:
        app = create_app(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    uvicorn.run(app, **server_options(settings))


if __name__ == "__main__":
    main()
