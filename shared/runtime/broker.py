"""The factory for every service's connection to NATS: endless reconnects, credentials and TLS from settings."""

from __future__ import annotations

import logging
import os

from faststream import AckPolicy as OnError
from faststream.nats import NatsBroker
from faststream.nats.security import NatsCredentials, NatsToken, NatsUserPassword
from faststream.security import BaseSecurity
from nats.aio.client import Client
from prometheus_client import CollectorRegistry

from accelerator_autopilot.runtime import observability, unstarted_messages
from accelerator_autopilot.runtime.consumers import RetryMiddleware
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.settings import ServiceSettings
from accelerator_autopilot.transport.connection import CONNECTION, tls_context

log = logging.getLogger(__name__)
unstarted_messages.install()


def make_broker(
    settings: ServiceSettings, name: str, registry: CollectorRegistry, rule: PoisonRule | None = None
) -> NatsBroker:
    """Create the FastStream broker of a service process; connect it once and never restart it."""
    rule = rule or PoisonRule(registry, lambda: client_of(broker).jetstream(timeout=5.0))
    broker = NatsBroker(
        settings.servers,
        **CONNECTION,
        name=f"autopilot-{name}",
        security=_security(settings),
        closed_cb=_die,
        graceful_timeout=8.0,
        ack_policy=OnError.NACK_ON_ERROR,
        js_options={"timeout": 5.0},
        logger=logging.getLogger("faststream"),
        log_level=logging.DEBUG,
        middlewares=[*observability.middlewares(settings, name, registry), RetryMiddleware(rule)],
    )
    return broker


def _security(settings: ServiceSettings) -> BaseSecurity:
    tls = tls_context(settings)
    if settings.nats_credentials:
        return NatsCredentials(str(settings.nats_credentials), ssl_context=tls)
    if settings.nats_user and settings.nats_password:
        return NatsUserPassword(settings.nats_user, settings.nats_password.get_secret_value(), ssl_context=tls)
    if settings.nats_token:
        return NatsToken(settings.nats_token.get_secret_value(), ssl_context=tls)
    return BaseSecurity(ssl_context=tls)


stopping = False


def expect_close() -> None:
    """Announce that the connection is about to be closed on purpose."""
    global stopping  # noqa: PLW0603  the process has one broker and one end
    stopping = True


async def _die() -> None:
    # A closed client never reconnects and its pull loops spin: only a new process helps.
    if not stopping:
        log.critical("NATS connection closed permanently; exiting")
        os._exit(1)


def client_of(broker: NatsBroker) -> Client:
    """Return the nats-py client of a connected broker."""
    client: Client = broker.config.connection_state.connection
    return client
