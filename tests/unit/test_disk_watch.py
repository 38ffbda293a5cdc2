from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import APIError, ServiceUnavailableError

from accelerator_autopilot.contracts.messages.alerts import Alert, Severity
from accelerator_autopilot.deploy.local import nats_disk_monitor
from accelerator_autopilot.deploy.local.disk_pressure import MIB, DiskPressure, RestartRule, severity_of
from accelerator_autopilot.deploy.local.nats_disk_monitor import DiskWatch
from accelerator_autopilot.deploy.local.nats_write_errors import WriteErrors, jetstream_is_off
from accelerator_autopilot.transport.settings import NatsSettings

REFUSED = (
    b"[427] 2026/11/27 10:14:26.523915 [ERR] JetStream failed to store a msg on stream '$G > B': "
    b"write /d/B/msgs/1.blk: no space left on device\n"
)


class Usage(NamedTuple):
    free: int
    total: int = 1000 * MIB


class Bench:
    """A watch over a disk and a log that the test makes, and what it told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free, self.restarts, self.told = 500, 0, list[Alert]()
        self.log = folder / "nats.log"
        self.log.write_bytes(REFUSED)  # of before
        monkeypatch.setattr(
            "accelerator_autopilot.deploy.local.nats_disk_monitor.shutil.disk_usage", lambda _: Usage(self.free * MIB)
        )

        async def stored(*_: object) -> dict[str, Alert]:
            return {}

        async def tell(_: object, alert: Alert, __: str) -> None:
            self.told.append(alert)

        monkeypatch.setattr("accelerator_autopilot.runtime.condition_alerts.bucket_items", stored)
        monkeypatch.setattr("accelerator_autopilot.runtime.condition_alerts.tell", tell)
        self.watch = DiskWatch(
            folder, self.log, self.restart, "n1", NatsSettings(), limits=DiskPressure(full_bytes=5 * MIB)
        )

    async def restart(self) -> None:
        self.restarts += 1

    async def check(self, free_mib: int) -> None:
        self.free = free_mib
        for _ in range(3):
            await self.watch.check()
            await self.watch._alerts.send()

    @property
    def heard(self) -> list[str]:
        return [f"{a.state} {a.severity}" for a in self.told if a.state != "updated" or a.escalated]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


async def test_opened_at_nine_percent_worse_at_two_and_over_with_room(bench: Bench) -> None:
    for free_mib in (500, 90, 95, 105, 20, 25, 500, 500):
        await bench.check(free_mib)
    assert bench.heard == ["opened warning", "updated critical", "resolved critical"]
    first = bench.told[0]
    assert (first.node, first.kind, first.evidence[0].value) == ("n1", "disk_full", 0.09)
    assert "9.0%" in first.summary
    assert bench.restarts == 0, "nothing was refused"


async def test_a_server_whose_disk_was_full_starts_anew_once_there_is_room(bench: Bench) -> None:
    await bench.check(4)
    assert bench.restarts == 0
    await bench.check(500)
    assert bench.restarts == 1


async def test_a_write_error_counts_also_where_every_look_saw_room(bench: Bench) -> None:
    await bench.check(500)
    with bench.log.open("ab") as log:
        log.write(REFUSED[:60])
        log.flush()
        await bench.check(500)
        log.write(REFUSED[60:])
    await bench.check(500)
    assert bench.restarts == 1
    assert bench.heard == ["opened critical", "resolved critical"]


async def test_a_server_that_stays_without_jetstream_starts_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_disk_monitor, "OFF_FOR_S", 0.0)
    bench.watch._off_since = 0.001
    await bench.check(500)
    assert bench.restarts == 1


async def test_only_a_server_that_says_so_is_without_jetstream() -> None:
    def client(error: Exception | None) -> Any:
        class Answers:
            is_connected = True

            def jetstream(self, timeout: float) -> Answers:
                return self

            async def account_info(self) -> None:
                if error is not None:
                    raise error

        return Answers()

    answers = [ServiceUnavailableError(), APIError(code=503, err_code=10076), NatsTimeout(), None]
    assert [await jetstream_is_off(client(error)) for error in answers] == [True, True, False, False]


def test_restarts_that_do_not_help_come_less_and_less_often() -> None:
    rule, restarts = RestartRule(DiskPressure(full_bytes=5)), list[int]()
    for second in range(1_000):
        if rule.due(500, float(second), refused=True):
            restarts.append(second)
            rule.restarted(float(second))
    assert restarts == [0, 10, 30, 70, 150, 310, 610, 910]


def test_what_a_client_says_of_itself_is_no_write_error(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    log.write_bytes(b"")
    errors = WriteErrors(log)
    log.write_bytes(b'[1] 2026/11/27 10:14:26.5 [ERR] 10.0.0.1:5 - cid:1 - "JetStream: no space left on device\n')
    assert not errors.seen()
    log.write_bytes(b"")
    assert not errors.seen()
    log.write_bytes(REFUSED)
    assert errors.seen(), "a log that was rotated is read from its beginning"
    assert not errors.seen()


@pytest.mark.parametrize(
    ("share", "current", "severity"),
    [
        (0.11, None, None), (0.099, None, "warning"), (0.11, "warning", "warning"), (0.121, "warning", None),
        (0.029, "warning", "critical"), (0.035, "critical", "critical"), (0.037, "critical", "warning"),
    ],
)  # fmt: skip
def test_levels_do_not_flap(share: float, current: Severity | None, severity: Severity | None) -> None:
    assert severity_of(share, current, DiskPressure()) == severity
