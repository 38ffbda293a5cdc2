"""Dependencies that all deliveries share: sender, ledger store, silences and audit outbox."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.js import JetStreamContext

from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.messages.notifications import Silence, Subscription
from accelerator_autopilot.notifier.application.missed_resolutions import OpenAlerts
from accelerator_autopilot.notifier.ports import LedgerStore, WebhookSender
from accelerator_autopilot.notifier.settings import NotifierSettings
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.transport.audit_records import record

log = logging.getLogger(__name__)


@dataclass
class DeliveryContext:
    """`audit` queues a record and never blocks.

    `needs_somebody` (whether an alert is open and unacknowledged) and `open_alerts` raise UnavailableError.
    """

    nc: Client
    js: JetStreamContext
    settings: NotifierSettings
    sender: WebhookSender
    store: LedgerStore
    audit: Callable[[AuditRecord], None]
    needs_somebody: Callable[[Alert], Awaitable[bool]]
    open_alerts: Callable[[], Awaitable[list[Alert]]]
    poison: PoisonRule
    still_open: OpenAlerts = field(default_factory=OpenAlerts)
    silences: dict[str, Silence] = field(default_factory=dict)

    def note(self, action: str, subscription: Subscription, alert: Alert, attempt: int, detail: str) -> None:
        """Write to the delivery log as soon as the broker accepts it."""
        log.info(action, extra={"subscription": subscription.id, "alert": alert.id, "attempt": attempt})
        details = {"alert": alert.id, "state": alert.state, "attempt": str(attempt), "detail": detail}
        self.audit(record("notifier", action, subscription.id, **details))
