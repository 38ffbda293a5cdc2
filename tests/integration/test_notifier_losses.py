"""What servers and buckets lose, and what is taken away meanwhile: nothing is told twice, and what was told ends."""

from __future__ import annotations

import pytest

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.notifications import Subscription
from accelerator_autopilot.notifier import app as notifier_app
from accelerator_autopilot.notifier.app import create_app
from accelerator_autopilot.transport import stream_setup
from tests.conftest import NatsServer
from tests.integration.test_notifier import Receiver, publish, settings
from tests.support.apps import running
from tests.support.waiting import eventually

pytestmark = [pytest.mark.nats, pytest.mark.timeout(120)]


async def test_a_consumer_that_is_lost_begins_where_it_was(nats_server: NatsServer, client: AutopilotClient) -> None:
    receiver = Receiver()
    async with receiver.serving() as url:
        made = await client.alerts.subscribe(f"{url}/ok")
        told = ["a opened", "a resolved", "b opened"]
        async with running(create_app(settings(nats_server))):
            await publish(client, "a")
            await publish(client, "a", state="resolved")
            await publish(client, "b")
            await eventually(lambda: sorted(receiver.of("/ok")) == told, 20)

            async def kept() -> bool:
                place = await client.js.get_last_msg("KV_notices", f"$KV.notices.{made.id}")
                return b'"sequence":3' in (place.data or b"")

            await eventually(kept, 20)
            await client.js.delete_consumer("ALERTS", f"notifier-{made.id}")
            await publish(client, "c")
            await eventually(lambda: len(receiver.of("/ok")) > 3, 30)
            assert sorted(receiver.of("/ok")) == [*told, "c opened"]
        await client.js.delete_consumer("ALERTS", f"notifier-{made.id}")
        await publish(client, "d")
        async with running(create_app(settings(nats_server))):
            await eventually(lambda: len(receiver.of("/ok")) > 4, 20)
            assert sorted(receiver.of("/ok")) == [*told, "c opened", "d opened"]


async def test_a_stream_that_is_made_anew_still_ends_what_was_told(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        await client.alerts.subscribe(f"{url}/ok")
        for name in ("a", "b", "c"):
            await publish(client, name)
        await eventually(lambda: len(receiver.of("/ok")) == 3, 20)
        await client.js.delete_stream("ALERTS")
        await stream_setup.ensure(client.js)
        await publish(client, "a", state="resolved")
        await eventually(lambda: "a resolved" in receiver.of("/ok"), 30)


async def test_a_subscription_that_cannot_be_read_goes_on_and_is_told_nothing_again(
    nats_server: NatsServer, client: AutopilotClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier_app, "RESYNC_S", 0.5)
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        made = await client.alerts.subscribe(f"{url}/ok")
        await publish(client, "a")
        await publish(client, "a", state="resolved")
        await eventually(lambda: receiver.of("/ok") == ["a opened", "a resolved"], 20)
        bucket = await client.js.key_value("subscriptions")
        known = (await bucket.get(made.id)).value
        await bucket.put(made.id, b'{"channel": "of a later version"}')
        await client.alerts.subscribe(f"{url}/later")
        await publish(client, "b")
        await eventually(lambda: receiver.of("/later") == ["b opened"], 20)
        assert known is not None
        await bucket.put(made.id, known)
        await publish(client, "c")
        await eventually(lambda: len(receiver.of("/ok")) >= 4, 20)
        assert receiver.of("/ok") == ["a opened", "a resolved", "b opened", "c opened"]


async def test_what_grows_past_a_filter_is_ended_all_the_same(nats_server: NatsServer, client: AutopilotClient) -> None:
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        await client.alerts.subscribe(f"{url}/ok", severities=["warning"])
        await publish(client, "a")
        await eventually(lambda: receiver.of("/ok") == ["a opened"], 20)
        await publish(client, "a", "critical", "updated")
        await publish(client, "a", "critical", "resolved")
        await eventually(lambda: receiver.of("/ok") == ["a opened", "a resolved"], 20)


async def test_what_was_removed_while_nobody_listened_leaves_nothing_behind(
    nats_server: NatsServer, client: AutopilotClient
) -> None:
    receiver = Receiver()
    async with receiver.serving() as url:
        made: Subscription = await client.alerts.subscribe(f"{url}/ok")
        async with running(create_app(settings(nats_server))):
            await publish(client, "a")
            await eventually(lambda: receiver.of("/ok") == ["a opened"], 20)
        await client.alerts.unsubscribe(made.id)
        async with running(create_app(settings(nats_server))):

            async def nothing() -> bool:
                names = [info.name for info in await client.js.consumers_info("ALERTS")]
                notices = (await client.js.stream_info("KV_notices", subjects_filter=">")).state.subjects or {}
                return not [n for n in [*names, *notices] if made.id in str(n)]

            await eventually(nothing, 20)


async def test_what_is_no_alert_is_put_aside_and_holds_nobody(nats_server: NatsServer, client: AutopilotClient) -> None:
    receiver = Receiver()
    async with receiver.serving() as url, running(create_app(settings(nats_server))):
        await client.alerts.subscribe(f"{url}/ok")
        await client.js.publish("alerts.critical.n1.gpu-0", b"rubbish")
        await publish(client, "a")
        await eventually(lambda: receiver.of("/ok") == ["a opened"], 20)

        async def aside() -> bool:
            return (await client.js.stream_info("POISON")).state.messages == 1

        await eventually(aside, 20)
