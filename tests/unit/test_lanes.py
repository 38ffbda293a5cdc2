"""What a lane does with jobs that it may not begin, and with those that it holds until they are written down."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.jobs import Job, JobNeeds, WorkerStatus
from accelerator_autopilot.inference.jobs.retry_policy import before_attempt
from accelerator_autopilot.inference.jobs.run_journal import RunJournal, RunningJob, open_journal
from accelerator_autopilot.inference.jobs.run_time_limit import RunTimeLimit
from accelerator_autopilot.inference.pool.application.batch_throttling import BatchThrottling
from accelerator_autopilot.inference.pool.application.pool_state import PoolState
from accelerator_autopilot.inference.pool.application.worker_devices import DeviceGroup
from accelerator_autopilot.inference.pool.application.worker_process import WorkerProcess
from accelerator_autopilot.inference.pool.application.worker_supervisor import PoolSupervisor
from accelerator_autopilot.inference.settings import PoolSettings
from accelerator_autopilot.inference.worker.application.batch_runner import JobRunner, _all
from accelerator_autopilot.inference.worker.application.worker_state import WorkerState
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import T0, alert, device
from tests.support.waiting import eventually


class GivenBack:
    def __init__(self) -> None:
        self.count = 0

    async def nak(self) -> None:
        self.count += 1


class HoldsJobs:
    def __init__(self, *messages: GivenBack) -> None:
        self.ready: deque[Any] = deque(messages)

    async def ask(self, wanted: int) -> bool:
        raise AssertionError("a device in trouble asks for nothing")


async def test_what_a_device_in_trouble_fetched_before_goes_to_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerator_autopilot.inference.worker.application.batch_runner.IDLE_S", 0.0)
    fetched = [GivenBack(), GivenBack()]
    pullers: Any = [HoldsJobs(fetched[0]), HoldsJobs(fetched[1]), HoldsJobs()]
    state = WorkerState(RunTimeLimit(RunJournal(None), 900))
    none: Any = None
    lane = JobRunner("echo", pullers, asyncio.Event(), none, none, none, none, state, none, none)
    assert await lane.take(0, prefetch=True) == []
    assert [m.count for m in fetched] == [1, 1]
    assert not any(p.ready for p in pullers)


async def test_one_job_that_cannot_be_written_down_lets_go_of_no_other() -> None:
    written: list[int] = []
    stored = asyncio.Event()

    async def fails() -> None:
        raise UnavailableError("its input was not dropped")

    async def takes_long() -> None:
        await stored.wait()
        written.append(1)

    held = asyncio.ensure_future(_all([fails(), takes_long()]))
    await asyncio.sleep(0.05)
    assert not held.done(), "the other one still needs its heartbeat"
    stored.set()
    with pytest.raises(UnavailableError):
        await held
    assert written == [1]


def test_a_full_disk_keeps_no_job_from_running() -> None:
    # A pipe refuses what the journal does, as a full disk would.
    reading, writing = os.pipe()
    journal = RunJournal(writing)
    journal.running([RunningJob(id="j")])
    journal.loading(True)
    os.close(reading)
    os.close(writing)


def test_a_job_with_needs_may_be_handed_on_for_as_long_as_it_may_wait() -> None:
    job = Job(id="j", kind="echo", priority="normal", submitted_at=T0, ttl_s=7 * 86_400, needs=JobNeeds(device="gpu"))
    assert before_attempt(job, 60_000, [], T0) is None
    given_up = before_attempt(job.model_copy(update={"needs": None}), 60_000, [], T0)
    assert given_up is not None
    assert given_up.why == "its workers died or returned it 59999 times without an outcome"


class Bucket:
    """A bus that keeps values."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Any] = {}

    async def read(self, bucket: str, key: str, model: Any) -> Any:
        return self.kept.get((bucket, key))

    async def write(self, bucket: str, key: str, value: Any) -> None:
        self.kept[bucket, key] = value


def pool(name: str, bus: Any) -> PoolState:
    return PoolState(bus, PoolSupervisor(PoolSettings(pool=name, node="n1"), 1))


async def test_two_pools_of_a_node_keep_each_others_devices_out_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bucket()

    async def items(_: object, bucket: str, __: object) -> dict[str, Any]:
        return {key: value for (of, key), value in bus.kept.items() if of == bucket}

    monkeypatch.setattr("accelerator_autopilot.inference.pool.application.pool_state.bucket_items", items)
    monkeypatch.setattr("accelerator_autopilot.runtime.condition_alerts.bucket_items", items)
    bus.js = None  # type: ignore[attr-defined]
    first, second = pool("a", bus), pool("b", bus)
    first.supervisor.set_aside = {"gpu-1": "jobs fail on it"}
    await first.save_cordons({"gpu-1"})
    await second.save_cordons({"gpu-2"})
    again, new = pool("a", bus), pool("c", bus)
    await again.restore()
    await new.restore()
    assert (again.supervisor.cordoned, again.supervisor.set_aside) == ({"gpu-1"}, {"gpu-1": "jobs fail on it"})
    assert (new.supervisor.cordoned, new.supervisor.set_aside) == ({"gpu-2"}, {}), (
        "what fails the jobs of others may do"
    )


async def test_a_worker_leaves_a_device_that_takes_no_work_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerator_autopilot.inference.pool.application.worker_supervisor.RELOCATE_AFTER_S", 0.1)
    supervisor = PoolSupervisor(PoolSettings(node="n1"), 1, devices=[device(device="gpu-0"), device(device="gpu-1")])
    started: list[str] = []

    async def start(devices: DeviceGroup) -> None:
        started.append(name := devices.name)
        status = WorkerStatus(worker=name, device=name, pid=1, state="ready", started_at=utc_now())
        process: Any = SimpleNamespace(returncode=None, stdin=None, terminate=lambda: None)
        supervisor._workers[name] = WorkerProcess(process, status, open_journal())

    monkeypatch.setattr(supervisor, "_start", start)
    await supervisor.reconcile()
    supervisor.shares = {"gpu-0": 0.0, "gpu-1": 1.0}
    await supervisor.reconcile()
    assert started == ["gpu-0"], "a moment's heat moves nobody"
    await asyncio.sleep(0.15)
    await supervisor.reconcile()
    assert supervisor._workers["gpu-0"].draining_since is not None
    assert started == ["gpu-0", "gpu-1"]
    supervisor.shares = {"gpu-0": 1.0, "gpu-1": 1.0}
    await supervisor.reconcile()
    assert started == ["gpu-0", "gpu-1"]


async def test_an_alert_whose_end_was_missed_holds_back_no_device_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerator_autopilot.inference.pool.application.batch_throttling.RECONCILE_INTERVAL_S", 0.01)
    supervisor = PoolSupervisor(PoolSettings(node="n1"), 1, devices=[device(device="gpu-0"), device(device="gpu-1")])
    watch = BatchThrottling(supervisor)
    over = alert(node="n1", device="gpu-0", severity="critical")
    missed = alert(id="other", node="n1", device="gpu-1", severity="critical")
    answers: list[list[Alert] | UnavailableError] = [UnavailableError("away")]

    async def read() -> list[Alert]:
        answer = answers[-1]
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    watch.on_alerts([over])
    task = asyncio.create_task(watch.keep_in_step(read))
    await asyncio.sleep(0.05)
    assert supervisor.shares == {"gpu-0": 0.0, "gpu-1": 1.0}
    answers.append([missed])
    await eventually(lambda: supervisor.shares == {"gpu-0": 1.0, "gpu-1": 0.0})
    task.cancel()
