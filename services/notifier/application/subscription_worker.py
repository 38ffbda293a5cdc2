"""Deliver one subscription's alerts: in order for each alert, with retries, and without one alert delaying another."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from datetime import timedelta

from nats.aio.msg import Msg
from pydantic import ValidationError

from accelerator_autopilot.contracts.errors import AutopilotError, InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.ids import derived_id
from accelerator_autopilot.contracts.message_addressing import check_address
from accelerator_autopilot.contracts.messages.alerts import Alert, Severity
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.notifier.application.alert_consumer import AlertConsumer, durable_name
from accelerator_autopilot.notifier.application.alertmanager_renewal import AlertmanagerRenewal
from accelerator_autopilot.notifier.application.delivery_context import DeliveryContext
from accelerator_autopilot.notifier.application.missed_resolutions import MissedResolutions
from accelerator_autopilot.notifier.domain.circuit_breaker import THRESHOLD, CircuitBreaker
from accelerator_autopilot.notifier.domain.delivery_rules import Rate, hold, retry_delay_s
from accelerator_autopilot.notifier.domain.message_formats import alertmanager_end, body_of
from accelerator_autopilot.notifier.domain.subscription_ledger import SubscriptionLedger
from accelerator_autopilot.notifier.errors import RefusedTargetError
from accelerator_autopilot.runtime.bus import BUS_ERRORS
from accelerator_autopilot.runtime.supervision import beat
from accelerator_autopilot.transport.clock import utc_now

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 5.0
MAX_WAITING = 20_000
# At shutdown: for answers to posts in progress, and to store what was delivered.
ANSWER_S, KEEP_S = 1.0, 1.0
# Whether an alert needs escalation is checked repeatedly; if that stays unknown, it is escalated.
NOT_KNOWN_S, ESCALATE_IF_UNKNOWN_S = 2.0, 30.0
# A suspended machine, or a clock that was set, moves the end of a silence or of quiet hours.
HELD_S = 60.0


class SubscriptionWorker:
    """Delivers the alerts of one subscription."""

    def __init__(self, subscription: Subscription, around: DeliveryContext) -> None:
        self.subscription, self.around = subscription, around
        self._ledger = SubscriptionLedger(subscription)
        self._breaker, self._rate = CircuitBreaker(), Rate()
        self._wake = asyncio.Event()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        # When to re-evaluate an alert, on the loop's clock: held ones, and those whose post failed.
        self._held: dict[str, float] = {}
        self._retry: dict[str, float] = {}
        self._unknown_since: dict[str, float] = {}
        self._unsaved: set[str] = set()
        self._renewal = AlertmanagerRenewal(subscription, around, self._under_way, self._wake)
        self._missed_resolutions = MissedResolutions()

    async def run(self) -> None:
        """Deliver until cancelled; the rest is delivered after the next start."""
        store, identity = self.around.store, self.subscription.id
        self._ledger = SubscriptionLedger(self.subscription, await store.load(identity))
        intake = AlertConsumer(
            self.around.nc, self.around.js, self.subscription, self._wake, await store.place(identity)
        )
        try:
            if await intake.start():
                self._restart()
            if self.subscription.channel == "alertmanager":
                self._unsaved |= await self._renewal.begin(self._ledger)
            while True:
                beat()
                self._wake.clear()
                if self._ledger.pending_count < MAX_WAITING and await intake.ask():
                    self._restart()
                self._end_lost()
                await self._take_all(intake)
                pause_s = await self._begin_all()
                if self.subscription.channel == "alertmanager":
                    pause_s = min(pause_s, self._renewal.renew())
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
        finally:
            await self._finish(intake)

    async def _finish(self, intake: AlertConsumer) -> None:
        """Store what was delivered, or it would be delivered again after the next start."""
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=ANSWER_S)
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        self._under_way.clear()
        with suppress(TimeoutError, *BUS_ERRORS):
            async with asyncio.timeout(KEEP_S):
                await self._save()
                await intake.stop()

    def look_again(self) -> None:
        """Re-evaluate held alerts after silences changed."""
        self._held.clear()
        self._wake.set()

    async def tell(self, alert: Alert, cause: str, before: Severity | None = None) -> None:
        """Post one alert now; `before` is the severity of its last delivery. Raises AutopilotError."""
        identity = f"msg_{derived_id(self.subscription.id, cause)}"
        if self.subscription.channel == "alertmanager":
            # Clocks differ: an open alert must not start in the future, nor a resolved one end there.
            now = utc_now()
            alert = alert.model_copy(update={"at": now if alert.state != "resolved" else min(alert.at, now)})
        body = body_of(self.subscription, alert, identity)
        if self.subscription.channel == "alertmanager" and before not in {None, alert.severity} and before is not None:
            body = [*body, *alertmanager_end(self.subscription, alert, before)]
        await self.around.sender.post(self.subscription, identity, utc_now(), body)

    def _restart(self) -> None:
        self._ledger.restart()
        self._unsaved |= self._ledger.entries.keys()

    def _end_lost(self) -> None:
        """Resolve what is no longer open although nobody published that: Alertmanager would keep it forever."""
        for alert_id in self._missed_resolutions.check(self._ledger, self.around.still_open):
            self._ledger.end(alert_id, utc_now())
            self._unsaved.add(alert_id)

    async def _take_all(self, intake: AlertConsumer) -> None:
        taken: list[tuple[str, Msg]] = []
        messages = intake.taken()
        for message in messages:
            try:
                alert = Alert.model_validate_json(message.data)
                check_address(message.subject, alert)
                news = self._ledger.take(alert, message.metadata.sequence.stream)
            except Exception as error:  # noqa: BLE001  whatever a message makes of itself
                bad, name = isinstance(error, ValidationError), durable_name(self.subscription.id)
                if await self.around.poison.settle(message, name, error, hopeless=bad) == "done":
                    intake.passed(message)
                continue
            if news:
                self._unsaved.add(alert.id)
                self._held.pop(alert.id, None)
            taken.append((alert.id, message))
        if messages:
            # No pull request is open any more.
            self._wake.set()
        self._unsaved |= self._ledger.sweep(utc_now())
        await self._save()
        for alert_id, message in taken:
            # What is not stored yet is redelivered.
            if alert_id not in self._unsaved:
                await intake.settle(message)
        place = intake.come_to()
        if place is not None:
            with suppress(UnavailableError):
                await self.around.store.put_place(self.subscription.id, place)

    async def _save(self) -> None:
        """Store changed entries, and delete finished ones; retried later if the broker is unreachable."""
        for alert_id in list(self._unsaved):
            if alert_id in self._under_way:
                continue
            beat()
            entry = self._ledger.entries.get(alert_id)
            try:
                if entry is None:
                    await self.around.store.remove(self.subscription.id, alert_id)
                else:
                    await self.around.store.put(self.subscription.id, entry)
            except UnavailableError as error:
                log.warning("ledger not kept yet", extra={"subscription": self.subscription.id, "error": str(error)})
                return
            if self._ledger.entries.get(alert_id) is entry or entry is None:
                self._unsaved.discard(alert_id)

    async def _begin_all(self) -> float:
        """Start every delivery that is due; returns how long until the next may be."""
        now_s = asyncio.get_running_loop().time()
        pause_s = self._breaker.wait_s(now_s)
        if pause_s > 0:
            return min(pause_s, CHECK_INTERVAL_S)
        trial = self._breaker.failures >= THRESHOLD
        limit = 1 if trial else self.around.settings.webhook_concurrency
        times = [CHECK_INTERVAL_S]
        for alert_id in self._ledger.waiting():
            due_s = max(self._held.get(alert_id, 0.0), self._retry.get(alert_id, 0.0))
            if due_s > now_s:
                times.append(due_s - now_s)
                continue
            if (
                alert_id in self._under_way
                or alert_id in self._renewal.posting
                or not self._ledger.entries[alert_id].waiting
            ):
                continue
            if await self._holds(alert_id, now_s):
                continue
            if len(self._under_way) >= limit:
                break
            wait_s = self._rate.wait_s(self.subscription.per_minute, now_s)
            if wait_s > 0:
                times.append(wait_s)
                break
            task = asyncio.create_task(self._deliver(alert_id))
            self._under_way[alert_id] = task
        return max(0.01, min(times))

    async def _holds(self, alert_id: str, now_s: float) -> bool:
        """Return why an alert is on hold, or drop it if it must not be delivered at all."""
        entry, now = self._ledger.entries[alert_id], utc_now()
        alert = entry.waiting[0].alert
        silences = list(self.around.silences.values())
        held = hold(self.subscription, silences, alert, now)
        if held is not None:
            later = [notice.alert for notice in entry.waiting[1:] if notice.alert.state != "resolved"]
            if any(hold(self.subscription, silences, worse, now) is None for worse in later):
                # An escalation may be delivered, and supersedes the state on hold before it.
                self._ledger.supersede(alert_id)
                self._unsaved.add(alert_id)
                return await self._holds(alert_id, now_s)
            if held.reason == "silenced" and not entry.silenced:
                self.around.note("webhook.silenced", self.subscription, alert, 0, held.until.isoformat())
                self._ledger.silence(alert_id)
                self._unsaved.add(alert_id)
            if held.reason != "quiet" and entry.ended_at is not None:
                # It was resolved before anybody had to know.
                return self._drop(alert_id)
            self._held[alert_id] = now_s + min(HELD_S, (held.until - now).total_seconds())
            return True
        if self.subscription.escalate_after_s and alert.state != "resolved" and entry.waiting[0].attempts == 0:
            if entry.ended_at is not None:
                return self._drop(alert_id)
            return await self._is_acknowledged(alert_id, alert, now_s)
        return False

    async def _is_acknowledged(self, alert_id: str, alert: Alert, now_s: float) -> bool:
        try:
            if await self.around.needs_somebody(alert):
                return False
        except UnavailableError:
            if now_s - self._unknown_since.setdefault(alert_id, now_s) >= ESCALATE_IF_UNKNOWN_S:
                return False
            self._held[alert_id] = now_s + NOT_KNOWN_S
            return True
        return self._drop(alert_id)

    def _drop(self, alert_id: str) -> bool:
        self._ledger.drop(alert_id)
        self._unknown_since.pop(alert_id, None)
        self._unsaved.add(alert_id)
        self._wake.set()
        return True

    async def _deliver(self, alert_id: str) -> None:
        entry = self._ledger.entries[alert_id]
        notice = entry.waiting[0]
        attempt, began = notice.attempts + 1, asyncio.get_running_loop().time()
        try:
            await self.tell(notice.alert, f"{notice.sequence}.{notice.alert.state}", entry.told)
        except (RefusedTargetError, InvalidInputError) as error:
            self.around.note("webhook.refused", self.subscription, notice.alert, attempt, str(error))
            self._ledger.drop(alert_id)
        except Exception as error:  # noqa: BLE001  whatever goes wrong with one is tried again and holds no other
            self._failed(alert_id, str(error) if isinstance(error, AutopilotError) else type(error).__name__)
        else:
            took_ms = (asyncio.get_running_loop().time() - began) * 1e3
            if self._breaker.failures >= THRESHOLD:
                # It is back: deliveries that failed meanwhile need not wait for their own retry.
                self._retry.clear()
            self._breaker.succeeded()
            self._ledger.delivered(alert_id)
            self._retry.pop(alert_id, None)
            self.around.note("webhook.delivered", self.subscription, notice.alert, attempt, f"{took_ms:.0f} ms")
        finally:
            self._unsaved.add(alert_id)
            self._under_way.pop(alert_id, None)
            self._unknown_since.pop(alert_id, None)
            self._wake.set()

    def _failed(self, alert_id: str, reason: str) -> None:
        now, now_s = utc_now(), asyncio.get_running_loop().time()
        notice = self._ledger.failed(alert_id, now)
        late = notice.tried_at and now - notice.tried_at > timedelta(seconds=self.around.settings.webhook_give_up_s)
        # An Alertmanager that comes back needs everything that is still open.
        if late and not (self.subscription.channel == "alertmanager" and notice.alert.state != "resolved"):
            self.around.note("webhook.abandoned", self.subscription, notice.alert, notice.attempts, reason)
            self._ledger.drop(alert_id)
            return
        self._retry[alert_id] = now_s + retry_delay_s(notice.attempts, random.random())
        if self._breaker.failed(now_s):
            log.warning("circuit breaker opened for a receiver", extra={"subscription": self.subscription.id})
        self.around.note("webhook.failed", self.subscription, notice.alert, notice.attempts, reason)
