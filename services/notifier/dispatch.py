"""Every subscription's deliveries: started, stopped, told of silences; none waits for another."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from nats.js.errors import NotFoundError

from services.notifier.delivering import Deliveries, Surroundings, durable_name
from shared.clock import utc_now
from shared.errors import AutopilotError
from shared.ids import new_id
from shared.messages.alerts import Alert
from shared.messages.notices import DeliveryReply, DeliveryRequest, Subscription

log = logging.getLogger(__name__)


@dataclass
class Dispatcher:
    """Runs one delivery loop per subscription."""

    around: Surroundings
    _loops: dict[str, tuple[Deliveries, asyncio.Task[None]]] = field(default_factory=dict)

    async def sync(self, subscriptions: dict[str, Subscription]) -> None:
        """Start loops of new subscriptions, stop those of removed ones, restart changed ones."""
        for key in list(self._loops):
            if subscriptions.get(key) != self._loops[key][0].subscription:
                known, task = self._loops.pop(key)
                task.cancel()
                if key not in subscriptions:
                    await self._remove(known.subscription)
        for key, subscription in subscriptions.items():
            if key not in self._loops:
                deliveries = Deliveries(subscription, self.around)
                self._loops[key] = (deliveries, asyncio.create_task(deliveries.run()))

    async def stop(self) -> None:
        """Stop every loop."""
        tasks = [task for _, task in self._loops.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def deliver_now(self, request: DeliveryRequest) -> DeliveryReply:
        """Tell one subscription of one alert, whatever its filters say."""
        known = self._loops.get(request.subscription_id)
        if known is None:
            return DeliveryReply(ok=False, detail=f"subscription {request.subscription_id} does not exist")
        deliveries, _ = known
        alert = request.alert or test_alert()
        began = asyncio.get_running_loop().time()
        try:
            await deliveries.tell(alert, new_id())
        except AutopilotError as error:
            await self.around.note("webhook.failed", deliveries.subscription, alert, 1, str(error))
            return DeliveryReply(ok=False, detail=str(error))
        detail = f"{(asyncio.get_running_loop().time() - began) * 1e3:.0f} ms"
        await self.around.note("webhook.delivered", deliveries.subscription, alert, 1, detail)
        return DeliveryReply(ok=True, detail=detail)

    async def _remove(self, subscription: Subscription) -> None:
        try:
            await self.around.js.delete_consumer("ALERTS", durable_name(subscription))
        except NotFoundError:
            log.info("consumer was gone already", extra={"subscription": subscription.id})


def test_alert() -> Alert:
    """What the test button sends."""
    now = utc_now()
    return Alert(
        id=f"test-{new_id()[:8]}",
        node="test",
        device="test",
        kind="test",
        severity="info",
        state="opened",
        summary="a test: nothing is wrong",
        action="nothing to do",
        opened_at=now,
        at=now,
        simulated=True,
    )
