"""Who may submit how much through the gateway, and when a stream is so full that it is told."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import BusyError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.alerts import Severity
from accelerator_autopilot.gateway.application.admission import Admission, Quota
from accelerator_autopilot.gateway.application.job_submission import CallerSubmission, _Depth
from accelerator_autopilot.gateway.security.roles import Caller, Role
from accelerator_autopilot.inference.pool.domain.stream_fill_alarm import severity_of


class TestAdmission:
    def admission(self) -> Admission:
        return Admission(Quota(jobs_per_minute=10, unfinished=6, fair_share=3), queue_limit=100)

    def test_each_limit_says_when_to_come_back(self) -> None:
        admission = self.admission()
        admission.admit("ada", 6, 0, 0.0)
        admission.submitted("ada", [f"j{i}" for i in range(6)], 0.0)
        with pytest.raises(BusyError, match="ada has 6 unfinished jobs"):
            admission.admit("ada", 1, 6, 1.0)
        for i in range(6):
            admission.finished(f"j{i}", 2.0)
        admission.submitted("ada", ["a", "b", "c", "d"], 3.0)
        for i in "abcd":
            admission.finished(i, 4.0)
        with pytest.raises(BusyError, match="10 jobs per minute; try again in 50 s"):
            admission.admit("ada", 1, 0, 10.0)
        admission.admit("ada", 1, 0, 61.0)
        with pytest.raises(BusyError, match="the queue is full: 100 jobs"):
            admission.admit("bob", 1, 100, 10.0)

    def test_a_large_share_queues_behind_the_others(self) -> None:
        admission = self.admission()
        admission.submitted("ada", ["1", "2", "3"], 0.0)
        assert (admission.priority("ada", "high"), admission.priority("ada", "low")) == ("normal", "low")
        assert admission.priority("bob", "high") == "high"
        admission.finished("1", 1.0)
        assert admission.priority("ada", "high") == "high"

    def test_results_that_come_while_a_batch_is_stored_are_taken_off(self) -> None:
        admission = self.admission()
        counted = admission.submitted("ada", ["1", "2", "3"], 0.0)
        admission.finished("1", 0.5)
        assert admission.submitted("ada", ["2", "4"], 1.0) == ["4"], "what is counted already is not counted again"
        admission.withdrawn(["4"])
        for job in counted:
            admission.finished(job, 2.0)
        assert admission.priority("ada", "high") == "high"
        admission.admit("ada", 6, 0, 3.0)


class TestSubmitFor:
    class Jobs:
        """Stores a job, and its result arrives before the confirmation does."""

        def __init__(self, admission: Admission, fails: bool, duplicate: bool = False) -> None:
            self.admission, self.fails, self.duplicate = admission, fails, duplicate
            self.fill = 0.0

        def identify(self, kind: str, submitter: str, key: str | None) -> str:
            return key or "new"

        async def submit(self, kind: str, payload: object, *, job_id: str, **_: object) -> Any:
            if self.fails:
                raise BusyError("full", 1)
            self.admission.finished(job_id, 0.0)
            return SimpleNamespace(id=job_id, duplicate=self.duplicate)

        async def map(self, kind: str, payloads: list[object], *, batch_id: str, **_: object) -> Any:
            for i in range(len(payloads)):
                self.admission.finished(f"{batch_id}.{i}", 0.0)
            if self.fails:
                raise BusyError("full", 1)
            return SimpleNamespace(id=batch_id, count=len(payloads), duplicate=False, there=frozenset())

        async def id_of(self, _: str) -> tuple[str, bool]:
            return new_id(), True

        async def forget(self, _: str) -> None:
            return None

        async def queue_depth(self) -> int:
            return 0

        async def results_fill(self) -> float:
            return self.fill

    @pytest.mark.parametrize("fails", [False, True])
    async def test_nothing_stays_on_the_account(self, fails: bool) -> None:
        admission = Admission(Quota(jobs_per_minute=1000, unfinished=6, fair_share=1), queue_limit=100)
        jobs = self.Jobs(admission, fails)
        autopilot = SimpleNamespace(jobs=jobs, batches=jobs, fleet=jobs)
        submit = CallerSubmission(autopilot, admission, Caller("ada", Role.operator), _Depth(), jobs)  # type: ignore[arg-type]
        for _ in range(5):
            with suppress(BusyError):
                await submit.job("echo", {}, {})
            with suppress(BusyError):
                await submit.batch("echo", [{}] * 5, {})
        assert admission.priority("ada", "high") == "high"
        admission.admit("ada", 6, 0, 0.0)

    async def test_a_batch_sent_again_counts_once(self) -> None:
        admission = Admission(Quota(jobs_per_minute=1000, unfinished=6, fair_share=6), queue_limit=100)

        class Again(TestSubmitFor.Jobs):
            sent = 0

            async def map(self, kind: str, payloads: list[object], *, batch_id: str, **_: object) -> Any:
                there, self.sent = frozenset({0, 1, 2} if self.sent else ()), self.sent + 1
                return SimpleNamespace(id=batch_id, count=len(payloads), duplicate=bool(there), there=there)

        jobs = Again(admission, False)
        autopilot = SimpleNamespace(jobs=jobs, batches=jobs, fleet=jobs)
        submit = CallerSubmission(autopilot, admission, Caller("ada", Role.operator), _Depth(), jobs)  # type: ignore[arg-type]
        first = await submit.batch("echo", [{}] * 5, {}, "key")
        assert (await submit.batch("echo", [{}] * 5, {}, "key")).id == first.id
        admission.admit("ada", 1, 0, 0.0)
        with pytest.raises(BusyError, match="ada has 5 unfinished jobs"):
            admission.admit("ada", 2, 0, 0.0)
        for i in range(5):
            admission.finished(f"{first.id}.{i}", 0.0)
        await submit.batch("echo", [{}] * 5, {}, "key")
        with pytest.raises(BusyError, match="ada has 2 unfinished jobs"):
            admission.admit("ada", 5, 0, 0.0)

    async def test_jobs_whose_results_would_have_no_room_are_refused(self) -> None:
        admission = Admission(Quota(jobs_per_minute=1000, unfinished=6, fair_share=6), queue_limit=100)
        jobs = self.Jobs(admission, False)
        jobs.fill = 0.99
        autopilot = SimpleNamespace(jobs=jobs, batches=jobs, fleet=jobs)
        submit = CallerSubmission(autopilot, admission, Caller("ada", Role.operator), _Depth(), jobs)  # type: ignore[arg-type]
        with pytest.raises(BusyError, match="stored results use 99% of their space"):
            await submit.job("echo", {}, {})


class TestFillAlarm:
    @pytest.mark.parametrize(
        ("ratio", "current", "severity"),
        [
            (0.79, None, None), (0.80, None, "warning"), (0.95, None, "critical"), (0.76, "warning", "warning"),
            (0.74, "warning", None), (0.91, "critical", "critical"), (0.89, "critical", "warning"),
            (0.10, "critical", None), (1.0, "warning", "critical"),
        ],
    )  # fmt: skip
    def test_levels_have_a_margin(self, ratio: float, current: Severity | None, severity: Severity | None) -> None:
        assert severity_of(ratio, current) == severity
