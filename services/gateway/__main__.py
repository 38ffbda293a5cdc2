"""`python -m services.gateway`."""

from __future__ import annotations

import sys

import uvicorn

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.errors import SettingsError
from shared.logs import setup_logging
from shared.settings import load


def main() -> None:
    """Serve until told to stop."""
    settings = load(GatewaySettings)
    setup_logging("gateway", settings.log_level)
    try:
        app = create_app(settings)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    uvicorn.run(
        app,
        host=settings.gateway_host,
        port=settings.gateway_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
