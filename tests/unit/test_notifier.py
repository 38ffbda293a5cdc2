"""Filters, retries, the breaker, and receivers inside the network."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.webhook_catcher import WebhookCatcher
from services.notifier.adapters.receiver import RefusedTargetError, WebhookReceiver
from services.notifier.domain.breaker import CircuitBreaker
from services.notifier.domain.delivery import payload, retry_delay_s, wants
from shared.clock import utc_now
from shared.errors import UnavailableError
from shared.messages.audit import Subscription
from tests.support.builders import T0, alert, at

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"


def subscription(url: str = "https://example.com/hook", **more: object) -> Subscription:
    return Subscription.model_validate({"id": "s1", "url": url, "secret": SECRET, "created_at": T0} | more)


def test_filters_take_what_they_name_and_empty_ones_all() -> None:
    assert wants(subscription(), alert())
    assert wants(subscription(severities=["critical"], kinds=["thermal"], nodes=["n1"]), alert())
    assert not wants(subscription(severities=["warning"]), alert())
    assert not wants(subscription(created_at=at(5)), alert())
    assert not wants(subscription(active=False), alert())


@given(attempt=st.integers(1, 1000), jitter=st.floats(0, 1))
def test_delays_are_bounded_and_spread(attempt: int, jitter: float) -> None:
    assert 0.5 <= retry_delay_s(attempt, jitter) <= 600
    assert retry_delay_s(attempt, 0.0) == pytest.approx(retry_delay_s(attempt, 1.0) / 2)


def test_the_breaker_opens_after_failures_in_a_row_and_closes_on_success() -> None:
    breaker = CircuitBreaker()
    assert [breaker.failed(0.0) for _ in range(5)] == [False] * 4 + [True]
    assert breaker.wait_s(1.0) == 4.0
    assert breaker.failed(5.0)
    assert breaker.wait_s(5.0) == 10.0
    breaker.succeeded()
    assert breaker.wait_s(5.0) == 0.0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "http://localhost:9/x",
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
        "http://[::1]:9/",
    ],
)
async def test_receivers_inside_the_network_are_refused(url: str) -> None:
    receiver = WebhookReceiver(1.0, private_targets=False)
    with pytest.raises(RefusedTargetError, match="not a public address"):
        await receiver.post(subscription(url), "msg_1", T0, {})
    await receiver.close()


async def test_a_delivery_is_signed_and_failures_are_told() -> None:
    catcher = WebhookCatcher(answers=(204, 500, 302))
    catcher.start()
    receiver = WebhookReceiver(2.0, private_targets=True)
    try:
        assert await receiver.post(subscription(catcher.url), "msg_1", utc_now(), payload(alert())) == 204
        verified = catcher.caught[0].verified(SECRET)
        assert verified is not None
        assert verified["data"]["kind"] == "thermal"
        assert catcher.caught[0].verified("whsec_" + "WFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhY") is None
        for status in ("500", "302"):
            with pytest.raises(UnavailableError, match=status):
                await receiver.post(subscription(catcher.url), "msg_2", utc_now(), {})
    finally:
        await receiver.close()
        catcher.stop()
