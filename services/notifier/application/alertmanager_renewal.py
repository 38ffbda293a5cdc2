"""Repost open alerts to Alertmanager, which resolves alerts that are not renewed."""

from __future__ import annotations

import asyncio
import logging

from accelerator_autopilot.contracts.errors import AutopilotError, UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.notifier.application.delivery_context import DeliveryContext
from accelerator_autopilot.notifier.domain.message_formats import alertmanager
from accelerator_autopilot.notifier.domain.subscription_ledger import LedgerEntry, SubscriptionLedger
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

RENEW_S, RENEW_RETRY_S, AT_ONCE = 60.0, 15.0, 100
# After a start: by then the stream's backlog has been read, so that no resolved alert is renewed.
CAUGHT_UP_S = 2.0
TASK = "renewal"


class AlertmanagerRenewal:
    """The renewals of one subscription; `under_way` are its posts by alert, including this task's."""

    def __init__(
        self,
        subscription: Subscription,
        around: DeliveryContext,
        under_way: dict[str, asyncio.Task[None]],
        wake: asyncio.Event,
    ) -> None:
        self._subscription, self._around = subscription, around
        self._under_way, self._wake = under_way, wake
        self._ledger = SubscriptionLedger(subscription)
        self._at_s = 0.0
        self.posting: frozenset[str] = frozenset()

    async def begin(self, ledger: SubscriptionLedger) -> set[str]:
        """Renew the open alerts of this ledger; returns those that were open before it and are new to it."""
        self._ledger = ledger
        self._at_s = asyncio.get_running_loop().time() + CAUGHT_UP_S
        try:
            known = await self._around.open_alerts()
        except UnavailableError as error:
            log.warning("open alerts not read", extra={"subscription": self._subscription.id, "error": str(error)})
            return set()
        return {alert.id for alert in known if ledger.adopt(alert)}

    def renew(self) -> float:
        """Post open alerts when they are due; returns how long until the next time."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._at_s and TASK not in self._under_way:
            # Whatever else is pending for it, the delivered state stays valid until the next delivery.
            alerts = [entry.alert.id for entry in self._ledger.open_and_told()] if self._subscription.active else []
            if alerts:
                self._under_way[TASK] = asyncio.create_task(self._post(alerts))
            self._at_s = now_s + RENEW_S
        return max(0.01, self._at_s - now_s)

    async def _post(self, alerts: list[str]) -> None:
        try:
            for start in range(0, len(alerts), AT_ONCE):
                beat()
                # Alerts that were resolved meanwhile, or are being delivered, must not be renewed after
                # that.
                open_ = {entry.alert.id: entry for entry in self._ledger.open_and_told()}
                part = [a for a in alerts[start : start + AT_ONCE] if a in open_ and a not in self._under_way]
                self.posting = frozenset(part)
                await self._post_part([open_[alert_id] for alert_id in part])
        finally:
            self.posting = frozenset()
            self._under_way.pop(TASK, None)
            self._wake.set()

    async def _post_part(self, entries: list[LedgerEntry]) -> None:
        now, body = utc_now(), list[object]()
        for entry in entries:
            going_on = {"at": now, "severity": entry.told, "state": "updated"}
            body += alertmanager(self._subscription, entry.alert.model_copy(update=going_on), "")
        try:
            if body:
                await self._around.sender.post(self._subscription, f"msg_{new_id()}", now, body)
        except Exception as error:  # noqa: BLE001  a part that is refused keeps no other from being renewed
            reason = str(error) if isinstance(error, AutopilotError) else type(error).__name__
            log.warning("alerts not renewed", extra={"subscription": self._subscription.id, "error": reason})
            self._at_s = asyncio.get_running_loop().time() + RENEW_RETRY_S
