"""How every process connects to NATS."""

from __future__ import annotations

import logging
import ssl
from typing import Any

from nats.aio.client import Client

from accelerator_autopilot.transport import forged_status_headers
from accelerator_autopilot.transport.settings import NatsSettings

log = logging.getLogger(__name__)
forged_status_headers.install()

CONNECTION: dict[str, Any] = {
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": 0.5,
    "ping_interval": 10,
    "max_outstanding_pings": 2,
    "drain_timeout": 5,
    "pending_size": 8 * 2**20,
}


def tls_context(settings: NatsSettings) -> ssl.SSLContext | None:
    """Return the TLS context where the settings name a CA."""
    if settings.nats_ca is None:
        return None
    context = ssl.create_default_context(cafile=str(settings.nats_ca))
    if settings.nats_certificate:
        context.load_cert_chain(settings.nats_certificate, settings.nats_key)
    return context


def connection_options(settings: NatsSettings, name: str) -> dict[str, Any]:
    """Return options for `nats.connect`: endless reconnects, credentials and TLS from settings."""
    options = CONNECTION | {"name": name, "error_cb": _log_error}
    if settings.nats_credentials:
        options["user_credentials"] = str(settings.nats_credentials)
    elif settings.nats_user and settings.nats_password:
        options |= {"user": settings.nats_user, "password": settings.nats_password.get_secret_value()}
    elif settings.nats_token:
        options["token"] = settings.nats_token.get_secret_value()
    tls = tls_context(settings)
    return options | ({"tls": tls} if tls else {})


def can_come_back(client: Client) -> bool:
    """Whether a client is connected or still reconnecting: its reconnect task may have died silently."""
    trying = client._reconnection_task  # noqa: SLF001  its status goes on saying that it tries
    return client.is_connected or (trying is not None and not trying.done())


def keep_trying(client: Client) -> None:
    """Keep error callbacks from ending the reconnect task, as FastStream's does after a temporary refusal.

    For a client that has been connected: a refusal at the first attempt should be raised.
    """
    tell = client._error_cb  # noqa: SLF001  set once, at the first connect

    async def on_error(error: Exception) -> None:
        try:
            await tell(error)
        except Exception as raised:  # noqa: BLE001  whatever a callback makes of an error
            log.warning("nats error", extra={"error": type(raised).__name__})

    client._error_cb = on_error  # noqa: SLF001


async def _log_error(error: Exception) -> None:
    # The library's own callback prints a traceback for every failed reconnect attempt.
    log.info("nats error", extra={"error": type(error).__name__})
