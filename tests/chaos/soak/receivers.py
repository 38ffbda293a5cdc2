"""Receivers of webhooks behind a link that can be cut; each knows its secret and checks every signature."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from accelerator_autopilot.cli.webhook_receiver import WebhookCatcher
from accelerator_autopilot.client import AutopilotClient
from tests.chaos.soak.alerts_ledger import AlertLedger
from tests.chaos.soak.proxy import LinkProxy, tcp_target

WANTED: dict[str, dict[str, object]] = {"critical": {"severities": ["critical"]}, "everything": {}}


@dataclass
class Receivers:
    """One receiver for each way of subscribing."""

    ledger: AlertLedger
    link: LinkProxy = field(init=False)
    _catcher: WebhookCatcher = field(default_factory=WebhookCatcher)
    _secrets: dict[str, str] = field(default_factory=dict)
    unsigned: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Listen."""
        self._catcher.start()
        self.link = LinkProxy(tcp_target(int(self._catcher.url.rsplit(":", 1)[1].split("/")[0])))
        await self.link.start()

    async def subscribe(self, client: AutopilotClient) -> None:
        """Have alerts delivered through the link."""
        for name, filters in WANTED.items():
            url = f"http://127.0.0.1:{self.link.port}/hook"
            self._secrets[name] = (await client.alerts.subscribe(url, **filters)).secret
            self.ledger.told[name] = set()

    async def run(self) -> None:
        """Take in what was caught, until cancelled."""
        taken = 0
        while True:
            caught = self._catcher.caught[taken:]
            taken += len(caught)
            for request in caught:
                bodies = {name: request.verified(secret) for name, secret in self._secrets.items()}
                if not any(bodies.values()):
                    self.unsigned.append(f"a webhook that no secret signed: {request.body[:200]!r}")
                for name, body in bodies.items():
                    if body:
                        self.ledger.delivered(name, str(body["data"]["id"]), time.monotonic())
            await asyncio.sleep(0.2)

    async def stop(self) -> None:
        """Listen no more."""
        await self.link.stop()
        self._catcher.stop()
