"""Start and stop the worker of each subscription, and pass on silences. No subscription waits for another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field

import nats.errors
from nats.js.errors import NotFoundError

from accelerator_autopilot.contracts.errors import AutopilotError, UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.notifications import DeliveryReply, DeliveryRequest, Silence, Subscription
from accelerator_autopilot.notifier.application.alert_consumer import durable_name
from accelerator_autopilot.notifier.application.delivery_context import DeliveryContext
from accelerator_autopilot.notifier.application.subscription_worker import SubscriptionWorker
from accelerator_autopilot.runtime.supervision import TaskSupervisor
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.consumer_listing import all_consumers

log = logging.getLogger(__name__)

HANG_TIMEOUT_S = 120.0


@dataclass
class SubscriptionSupervisor:
    """Runs one delivery worker per subscription, under supervision."""

    around: DeliveryContext
    supervisor: TaskSupervisor
    _loops: dict[str, SubscriptionWorker] = field(default_factory=dict)

    async def sync(self, subscriptions: dict[str, Subscription], kept: Collection[str] | None = None) -> None:
        """Start workers of new subscriptions, stop those of removed ones, restart changed ones.

        `kept` are all existing keys: a subscription whose value this version cannot read continues unchanged.
        The ledger of a removed one is deleted, so everything would be delivered again.
        """
        there = subscriptions.keys() if kept is None else set(kept)
        for key in list(self._loops):
            known = self._loops[key].subscription
            if key not in there:
                del self._loops[key]
                self.supervisor.end(_task(key))
                await self._remove(known.id)
            elif subscriptions.get(key, known) != known:
                del self._loops[key]
        for key, subscription in subscriptions.items():
            if key not in self._loops:
                deliveries = self._loops[key] = SubscriptionWorker(subscription, self.around)
                self.supervisor.start(_task(key), deliveries.run, hang_timeout_s=HANG_TIMEOUT_S)

    def silence(self, silences: dict[str, Silence]) -> None:
        """Apply the current silences; pending alerts are re-evaluated when these changed."""
        if silences != self.around.silences:
            self.around.silences = silences
            for deliveries in self._loops.values():
                deliveries.look_again()

    async def deliver_now(self, request: DeliveryRequest) -> DeliveryReply:
        """Deliver one alert to a subscription, ignoring its filters."""
        deliveries = self._loops.get(request.subscription_id)
        if deliveries is None:
            return DeliveryReply(ok=False, detail=f"subscription {request.subscription_id} does not exist")
        alert = request.alert or test_alert()
        began = asyncio.get_running_loop().time()
        try:
            await deliveries.tell(alert, new_id())
        except Exception as error:  # noqa: BLE001  whoever asked is answered, and not left to wait
            detail = str(error) if isinstance(error, AutopilotError) else type(error).__name__
            self.around.note("webhook.failed", deliveries.subscription, alert, 1, detail)
            return DeliveryReply(ok=False, detail=detail)
        detail = f"{(asyncio.get_running_loop().time() - began) * 1e3:.0f} ms"
        self.around.note("webhook.delivered", deliveries.subscription, alert, 1, detail)
        return DeliveryReply(ok=True, detail=detail)

    async def remove_orphans(self, kept: Collection[str]) -> None:
        """Delete what is left of subscriptions that were removed while this service or the broker was down."""
        try:
            consumers = await all_consumers(self.around.js._nc, "ALERTS")  # noqa: SLF001  it has no other name
        except UnavailableError as error:
            log.info("consumers not listed", extra={"error": type(error).__name__})
            return
        prefix = durable_name("")
        for name in [str(info["name"]) for info in consumers]:
            identity = name.removeprefix(prefix)
            if name.startswith(prefix) and identity not in kept and identity not in self._loops:
                log.info("deleting the consumer of a removed subscription", extra={"subscription": identity})
                await self._remove(identity)

    async def _remove(self, identity: str) -> None:
        try:
            with suppress(NotFoundError):
                await self.around.js.delete_consumer("ALERTS", durable_name(identity))
            await self.around.store.remove(identity)
        except (UnavailableError, nats.errors.Error, OSError) as error:
            log.warning("consumer not deleted", extra={"subscription": identity, "error": str(error)})


def _task(subscription_id: str) -> str:
    return f"subscription {subscription_id}"


def test_alert() -> Alert:
    """Return the alert that the test button sends."""
    now = utc_now()
    return Alert(
        id=f"test-{new_id()[:8]}",
        node="test",
        device="test",
        kind="test",
        severity="info",
        state="opened",
        summary="test alert: nothing is wrong",
        action="nothing to do",
        opened_at=now,
        at=now,
        simulated=True,
        actor="notifier",
    )
