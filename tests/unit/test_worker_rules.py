"""The pure rules of workers to the value: the order of jobs, batch sizes, retries and expiry."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from datetime import datetime
from typing import Any

import pytest

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.messages.jobs import Job, JobError, JobNeeds
from accelerator_autopilot.inference.jobs import retry_policy
from accelerator_autopilot.inference.jobs.retry_policy import (
    EndJob,
    Places,
    Retry,
    after_error,
    before_attempt,
    counted,
    expired_text,
    expires_at,
)
from accelerator_autopilot.inference.worker.domain.batch_sizing import FORGET_AFTER, BatchSizer
from accelerator_autopilot.inference.worker.domain.priorities import FAR, StridePicker, fair_order
from tests.support.builders import T0, at


def job(**more: Any) -> Job:
    return Job.model_validate({"id": "j", "kind": "echo", "priority": "normal", "submitted_at": T0} | more)


def failed_on(*devices: str) -> list[JobError]:
    return [JobError(attempt=i, type="E", message="m", worker="w", at=T0, device=d) for i, d in enumerate(devices, 1)]


class TestStridePicker:
    def picks(self, picker: StridePicker, *lengths: list[int]) -> list[int | None]:
        return [picker.next(waiting) for waiting in lengths]

    def test_the_first_picks_of_full_queues(self) -> None:
        assert self.picks(StridePicker(), *[[9, 9, 9]] * 21) == [
            0, 1, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0,
        ]  # fmt: skip

    def test_full_queues_share_by_weight(self) -> None:
        picker = StridePicker()
        assert Counter(picker.next([9, 9, 9]) for _ in range(2100)) == {0: 1600, 1: 400, 2: 100}

    def test_weights_are_an_argument(self) -> None:
        assert self.picks(StridePicker((1, 2)), *[[1, 1]] * 6) == [0, 1, 1, 0, 1, 1]

    def test_a_queue_that_comes_back_joins_at_the_least_of_the_others(self) -> None:
        picker = StridePicker((1, 1, 1))
        picks = self.picks(picker, [0, 1, 1], [0, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1])
        assert picks == [1, 2, 1, 0, 2, 0, 1]

    def test_debts_are_forgotten_when_all_are_empty(self) -> None:
        picker = StridePicker((1, 1))
        assert self.picks(picker, [1, 0], [1, 0], [1, 1], [0, 0], [1, 1]) == [0, 0, 0, None, 0]

    def test_one_that_rejoins_with_a_debt_does_not_lose_it(self) -> None:
        picker = StridePicker((1, 1))
        assert self.picks(picker, [1, 1], [1, 1], [1, 0], [0, 1], [1, 1], [1, 1]) == [0, 1, 0, 1, 1, 0]


class TestFairOrder:
    def order(self, *jobs: tuple[str, int, datetime | None]) -> list[int]:
        return [number for _, number, _ in fair_order(jobs, lambda j: j[0], lambda j: j[2])]

    def test_a_round_has_one_of_each_and_the_earliest_deadline_first(self) -> None:
        assert self.order(("a", 1, None), ("a", 2, at(9)), ("b", 3, at(5)), ("b", 4, at(7)), ("c", 5, None)) == [
            3, 2, 5, 4, 1,
        ]  # fmt: skip
        assert datetime.max.replace(tzinfo=T0.tzinfo) == FAR


class TestBatchSizer:
    def test_it_begins_with_one_and_doubles_while_there_is_time(self) -> None:
        sizer, sizes = BatchSizer(largest=20), []
        assert (sizer.size, sizer.share, sizer.budget_s, sizer.allowed) == (1, 1.0, 0.25, 1)
        for _ in range(6):
            sizer.record(sizer.size, 0.001 * sizer.size)
            sizes.append(sizer.size)
        assert sizes == [2, 4, 8, 16, 20, 20]

    @pytest.mark.parametrize(
        ("size", "count", "took_s", "then"),
        [
            (4, 4, 1.0, 1),  # 4 a second, 0.25 s
            (4, 4, 0.4, 2),
            (4, 4, 0.25, 5),  # just fits: one more
            (4, 4, 0.2, 5),
            (4, 4, 0.15, 6),
            (4, 4, 0.001, 8),
            (4, 3, 0.001, 4),  # nobody tried the whole size
            (4, 5, 0.001, 8),
            (4, 1, 0.9, 1),
            (4, 1, 0.05, 4),
            (4, 0, 9.0, 4),
            (4, -1, 9.0, 4),
            (4, 4, 0.0, 8),
            (1, 1, 0.25, 2),
            (64, 64, 0.001, 64),
        ],
    )
    def test_what_a_batch_teaches(self, size: int, count: int, took_s: float, then: int) -> None:
        sizer = BatchSizer(largest=64, size=size)
        sizer.record(count, took_s)
        assert sizer.size == then

    def test_a_batch_of_no_time_at_all_is_no_division_by_zero(self) -> None:
        sizer = BatchSizer(largest=10**9, size=10**6, budget_s=1.5)
        sizer.record(10**6, 0.0)
        assert sizer.size == 1_500_000

    def test_a_batch_that_fills_the_share_counts_as_whole(self) -> None:
        sizer = BatchSizer(largest=64, size=10, share=0.5)
        assert sizer.allowed == 5
        sizer.record(4, 0.001)
        assert sizer.size == 10
        sizer.record(5, 0.001)
        assert sizer.size == 20

    def test_memory_that_ran_out_bounds_it_for_a_thousand_batches(self) -> None:
        assert FORGET_AFTER == 1000
        sizer = BatchSizer(largest=64, size=16)
        assert sizer.out_of_memory(9) == 4
        assert sizer.size == 4
        for _ in range(999):
            sizer.record(4, 0.001)
        assert sizer.size == 4
        sizer.record(4, 0.001)
        assert sizer.size == 8
        assert sizer.out_of_memory(8) == 4
        for _ in range(999):
            sizer.record(4, 0.001)
        assert sizer.size == 4

    def test_one_that_is_too_large_alone_leaves_a_size_of_one(self) -> None:
        sizer = BatchSizer(largest=64, size=2)
        assert (sizer.out_of_memory(1), sizer.size) == (0, 1)
        for _ in range(9):
            sizer.record(1, 0.001)
        assert sizer.size == 1
        small = BatchSizer(largest=64, size=3)
        assert (small.out_of_memory(40), small.size) == (20, 3)

    @pytest.mark.parametrize(
        ("size", "of_device", "allowed", "prefetches"),
        [(8, 1.0, 8, True), (8, 0.3, 2, True), (1, 0.1, 1, False), (1, 1.0, 1, False), (2, 0.01, 1, True),
         (8, 0.0, 0, False), (2, 1.0, 2, True)],
    )  # fmt: skip
    def test_what_the_device_allows(self, size: int, of_device: float, allowed: int, *, prefetches: bool) -> None:
        sizer = BatchSizer(largest=64, size=size, share=of_device)
        assert (sizer.allowed, sizer.prefetches) == (allowed, prefetches)


class TestExpiry:
    @pytest.mark.parametrize(
        ("options", "seconds"),
        [
            ({"ttl_s": 60}, 60),
            ({"ttl_s": 60, "not_before": at(30)}, 90),
            ({"ttl_s": 60, "not_before": at(-30)}, 60),
            ({"ttl_s": 60, "deadline_at": at(45)}, 45),
            ({"ttl_s": 60, "deadline_at": at(75)}, 60),
        ],
    )
    def test_when_a_job_expires(self, options: dict[str, Any], seconds: float) -> None:
        made = job(**options)
        assert expires_at(made) == at(seconds)
        assert before_attempt(made, 1, [], at(seconds)) is None
        ended = before_attempt(made, 1, [], at(seconds + 0.001))
        assert ended is not None
        assert (ended.reason, ended.why) == ("expired", expired_text(made))

    def test_it_says_why(self) -> None:
        by = "it had not started by its deadline, 2026-01-01T00:00:45+00:00"
        assert expired_text(job(ttl_s=60, deadline_at=at(45))) == by
        after = "it had not started 60 s (ttl_s) after 2026-01-01T00:00:"
        assert expired_text(job(ttl_s=60, deadline_at=at(75))) == f"{after}00+00:00"
        assert expired_text(job(ttl_s=60)) == f"{after}00+00:00"
        assert expired_text(job(ttl_s=60, not_before=at(30))) == f"{after}30+00:00"
        assert expired_text(job(ttl_s=60, not_before=at(-30))) == f"{after}00+00:00"


class TestAttempts:
    def test_a_killer_of_workers_ends_at_the_third(self) -> None:
        ended = before_attempt(job(max_attempts=20), 1, [], T0, kills=3)
        assert ended is not None
        assert (ended.reason, ended.why) == ("attempts_exhausted", "killed its worker 3 times")
        assert before_attempt(job(max_attempts=20), 1, [], T0, kills=4) == EndJob("attempts_exhausted")
        assert before_attempt(job(max_attempts=20), 1, [], T0, kills=2) is None
        assert before_attempt(job(max_attempts=20), 1, [], T0) is None

    def test_failed_attempts_end_it_at_its_limit_where_they_count(self) -> None:
        three = job(max_attempts=3)
        assert before_attempt(three, 3, failed_on("a", "b"), T0) is None
        ended = before_attempt(three, 4, failed_on("a", "b", "c"), T0)
        assert ended is not None
        assert (ended.reason, ended.why) == ("attempts_exhausted", "")
        assert before_attempt(three, 4, failed_on("a", "a", "a"), T0, places=Places(others=1)) is None

    def test_deliveries_without_an_outcome_end_it_after_many_more(self) -> None:
        one = job(max_attempts=1)
        assert before_attempt(one, 21, [], T0) is None
        ended = before_attempt(one, 22, [], T0)
        assert ended is not None
        assert ended.why == "its workers died or returned it 21 times without an outcome"
        assert before_attempt(job(max_attempts=4), 24, [], T0) is None
        assert before_attempt(job(max_attempts=4), 25, [], T0) == EndJob("attempts_exhausted")
        two = job(max_attempts=2)
        assert before_attempt(two, 23, failed_on("a"), T0) is None
        again = before_attempt(two, 24, failed_on("a"), T0)
        assert again is not None
        assert again.why == "its workers died or returned it 22 times without an outcome"
        later = before_attempt(two, 25, failed_on("a"), T0)
        assert later is not None
        assert later.why == "its workers died or returned it 23 times without an outcome"

    def test_a_job_with_needs_may_wait_for_more_than_a_week(self) -> None:
        needy = job(max_attempts=1, needs=JobNeeds(devices=2))
        assert before_attempt(needy, 70_001, [], T0) is None
        assert before_attempt(needy, 70_002, [], T0) == EndJob("attempts_exhausted")

    @pytest.mark.parametrize(
        ("devices", "places", "count"),
        [
            ("aaa", None, 3),
            ("aaa", Places(others=0), 3),
            ("aaa", Places(others=1), 1),
            ("aba", Places(others=1), 3),
            ("aabb", Places(others=2), 2),
            ("", Places(others=1), 0),
            ("aaaaa", Places(others=1), 1),
            ("a" * 10, Places(others=1), 2),
            ("aab", Places(others=1, suspected=frozenset("a")), 1),
            ("bab", Places(others=1, suspected=frozenset("a")), 1),
            ("a" * 9, Places(others=1, suspected=frozenset("a")), 1),
            ("aaaa", Places(others=1, suspected=frozenset("a")), 0),
        ],
    )
    def test_which_failures_count(self, devices: str, places: Places | None, count: int) -> None:
        assert counted(failed_on(*devices), places) == count

    def test_failures_on_no_known_device_all_count(self) -> None:
        assert counted(failed_on("", "", ""), Places(others=1)) == 3

    def test_what_may_pass_is_tried_again_later_and_later(self) -> None:
        delays = [after_error(job(max_attempts=9), UnavailableError("x"), n) for n in range(1, 7)]
        assert delays == [Retry(s) for s in (0.5, 2.0, 8.0, 30.0, 30.0, 30.0)]
        assert after_error(job(max_attempts=9), ValueError("x"), 1) == Retry(0.5)
        assert after_error(job(max_attempts=3), ValueError("x"), 2) == Retry(2.0)
        assert after_error(job(max_attempts=3), ValueError("x"), 3) == EndJob("attempts_exhausted")
        assert after_error(job(max_attempts=3), ValueError("x"), 4) == EndJob("attempts_exhausted")
        assert after_error(job(max_attempts=1), InvalidInputError("f", 1, "r"), 1) == EndJob("permanent_error")

    @pytest.mark.parametrize(
        ("value", "name"), [(EndJob("expired"), "reason"), (Retry(1.0), "delay_s"), (Places(1), "others")]
    )
    def test_decisions_are_values(self, value: object, name: str) -> None:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, "other")
        assert EndJob("expired", "a") == EndJob("expired", "b") != EndJob("permanent_error", "a")
        assert retry_policy.BACKOFF_S == (0.5, 2.0, 8.0, 30.0)
