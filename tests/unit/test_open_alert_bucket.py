"""What stands in the bucket of open alerts while it ends is nobody else's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from accelerator_autopilot.anomaly.application import open_alert_bucket
from accelerator_autopilot.anomaly.application.open_alert_bucket import OpenAlertBucket
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.messages.alerts import Alert
from tests.support.builders import alert


class Book:
    """An alert that ends, and is removed from the bucket, while the bucket is read."""

    def __init__(self, ends: str) -> None:
        self.ends, self.open, self.on_the_way, self.adopted = ends, [alert()], [], list[Alert]()  # type: ignore[var-annotated]
        self.stored = {subjects.alert_key("n1", "gpu-0", "thermal"): alert()}

    def waits(self, _: Any) -> bool:
        return False

    def keep(self, _: Alert) -> None:
        raise AssertionError("what has ended is not written again")

    def step(self, name: str) -> None:
        if name == self.ends:
            self.open = []

    async def stream_info(self, *_: Any, **__: Any) -> Any:
        names = {f"$KV.open_alerts.{key}": 1 for key in self.stored}
        self.step("listed")
        return SimpleNamespace(state=SimpleNamespace(subjects=names, last_seq=7))

    async def items(self, *_: Any) -> dict[str, Alert]:
        found = dict(self.stored)
        self.step("read")
        return found


@pytest.mark.parametrize("ends", ["listed", "read"])
async def test_what_ends_while_the_bucket_is_read_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    book: Any = Book(ends)
    monkeypatch.setattr(open_alert_bucket, "bucket_items", book.items)
    stored = OpenAlertBucket(book, book, book, lambda: list(book.open), book.adopted.extend)
    await stored.check()
    assert book.adopted == []


async def test_what_nobody_here_opened_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    book: Any = Book("never")
    book.open = []
    monkeypatch.setattr(open_alert_bucket, "bucket_items", book.items)
    await OpenAlertBucket(book, book, book, lambda: list(book.open), book.adopted.extend).check()
    assert [a.id for a in book.adopted] == ["a1"]
