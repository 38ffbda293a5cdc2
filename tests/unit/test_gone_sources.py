"""Alerts of who never comes back end with a reason; what only a reset or an operator ends does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from accelerator_autopilot.anomaly.application import lost_alert_publishers
from accelerator_autopilot.anomaly.application.lost_alert_publishers import GONE_AFTER_S, LostAlertPublishers
from accelerator_autopilot.anomaly.application.message_handlers import NODE_GONE, SOURCE_GONE, SOURCE_WELL
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.alerts import Alert
from tests.support.builders import T0, alert, at
from tests.unit.test_fault_holding import Bench

DAY_S = 86_400.0


class Bucket:
    """Open alerts, and what was told."""

    def __init__(self, *alerts: Alert) -> None:
        self.stored = {subjects.alert_key(a.node, a.device, a.kind): a for a in alerts}
        self.told: list[Alert] = []

    async def items(self, *_: object) -> dict[str, Alert]:
        return dict(self.stored)

    async def publish(self, _subject: str, body: Alert, _identity: str) -> None:
        self.told.append(body)

    async def delete(self, _bucket: str, key: str) -> None:
        del self.stored[key]


class TestPublishers:
    @pytest.mark.parametrize("kind", ["worker_failing", "worker_stuck", "disk_full", "stream_full"])
    async def test_what_is_not_renewed_any_more_ends_with_that_as_its_reason(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket: Any = Bucket(alert(kind=kind))
        monkeypatch.setattr(lost_alert_publishers, "bucket_items", bucket.items)
        steady_s = 0.0
        publishers = LostAlertPublishers(bucket, bucket, lambda: T0, lambda: steady_s)
        await publishers.check()
        steady_s = GONE_AFTER_S - 1
        bucket.stored = {key: a.model_copy(update={"at": at(1)}) for key, a in bucket.stored.items()}
        await publishers.check()
        steady_s = 2 * GONE_AFTER_S - 2
        await publishers.check()
        assert bucket.told == [], "it was renewed within the hour"
        steady_s = 2 * GONE_AFTER_S
        await publishers.check()
        assert [(a.state, a.end_reason) for a in bucket.told] == [("resolved", lost_alert_publishers.REASON)]
        assert bucket.stored == {}

    async def test_what_detection_opened_is_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket: Any = Bucket(alert(kind="xid_79", holds=True), alert(kind="thermal"))
        monkeypatch.setattr(lost_alert_publishers, "bucket_items", bucket.items)
        clock = SimpleNamespace(now=0.0)
        publishers = LostAlertPublishers(bucket, bucket, lambda: T0, lambda: clock.now)
        for clock.now in (0.0, GONE_AFTER_S, 9 * GONE_AFTER_S):
            await publishers.check()
        assert bucket.told == []


class TestNodes:
    async def gone(self, bench: Bench) -> None:
        """It says nothing more, for longer than a node is waited for."""
        await bench.until(bench.now + 60)
        bench.now += 8 * DAY_S
        await bench.detection.on_time(at(bench.now))

    async def test_of_a_node_that_never_returns_only_what_holds_stays(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0", "gpu-1")
        await bench.frames(30, {"temp_c": 99.0, "temp_slowdown_c": 83.0}, ("gpu-0", "gpu-1"))
        await bench.event("xid", code=79, device="gpu-1")
        before = {(a.device, a.kind) for a in bench.detection.book.open_alerts}
        assert before >= {("gpu-0", "thermal"), ("gpu-1", "thermal"), ("gpu-1", "xid_79")}
        await self.gone(bench)
        assert {(a.device, a.kind) for a in bench.detection.book.open_alerts if not a.holds} == set()
        assert [a.kind for a in bench.detection.book.open_alerts] == ["xid_79"]
        ended = {(a.device, a.kind): a.end_reason for a in bench.told if a.state == "resolved"}
        assert {ended[key] for key in (("gpu-0", "thermal"), ("gpu-1", "thermal"), ("node", "agent_silent"))} == {
            NODE_GONE
        }
        await bench.until(bench.now + 60)
        assert [a.kind for a in bench.detection.book.open_alerts] == ["xid_79"], "it is not told as silent again"
        await bench.restore_by("anna", "gpu-1")
        assert bench.detection.book.open_alerts == []

    async def test_one_that_comes_back_after_all_is_watched_as_before(self) -> None:
        bench = Bench()
        await bench.inventory("gpu-0")
        await bench.frames(5, {"temp_c": 50.0})
        await self.gone(bench)
        await bench.frames(5, {"temp_c": 50.0})
        await bench.until(bench.now + 60)
        assert [a.kind for a in bench.detection.book.open_alerts] == ["agent_silent"]


class TestSources:
    async def test_a_source_that_is_configured_no_more_ends_its_alert(self) -> None:
        bench = Bench()
        await bench.event("source_failed", device="scrape-1", message="refused")
        await bench.inventory("gpu-0", sources={"nvml": "ok", "scrape-1": "refused"})
        assert [a.kind for a in bench.detection.book.open_alerts] == ["source_failed"]
        await bench.inventory("gpu-0", sources={"nvml": "ok"})
        assert (bench.detection.book.open_alerts, bench.told[-1].end_reason) == ([], SOURCE_GONE)

    async def test_one_that_is_well_after_a_restart_of_the_agent_ends_it_too(self) -> None:
        bench = Bench()
        await bench.event("source_failed", device="scrape-1", message="refused")
        await bench.inventory("gpu-0", sources={"nvml": "ok", "scrape-1": "ok"})
        assert len(bench.detection.book.open_alerts) == 1, "that inventory may be older than the failure"
        bench.now += 100
        await bench.inventory("gpu-0", sources={"nvml": "ok", "scrape-1": "ok"})
        assert (bench.detection.book.open_alerts, bench.told[-1].end_reason) == ([], SOURCE_WELL)
