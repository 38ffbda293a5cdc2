"""Whatever comes in on any subject, bucket or object store: it is counted, kept where it is a job, and stops nothing.

AUTOPILOT_FUZZ_MINUTES=60 goes on for an hour; AUTOPILOT_FUZZ_SEED plays a run again.
"""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from accelerator_autopilot.contracts import streams
from tests.chaos.fuzz.aftermath import SIMPLE_JOBS, WITH_A_MODEL, Aftermath
from tests.chaos.fuzz.targets import BUCKETS, all_targets
from tests.chaos.fuzz.throwing import Thrower, asked_seconds, asked_seed
from tests.support.product import running_product
from tests.support.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300 + int(asked_seconds()))]

ROUNDS, EACH = 3, 12
QUICK = {"AUTOPILOT_UNRUNNABLE_AFTER_S": "5"}


def test_every_subject_bucket_and_store_is_thrown_at() -> None:
    thrown = {target.name for target in all_targets()}
    kept = {subject for stream in streams.STREAMS for subject in stream.subjects or []}
    assert kept <= thrown
    assert {bucket.bucket for bucket in streams.BUCKETS} == set(BUCKETS)
    assert {f"$O.{store.bucket}.>" for store in streams.OBJECT_STORES} <= thrown


def test_a_seed_is_the_same_messages() -> None:
    for target in all_targets():
        once, again = (
            [re.sub(rb"20\d\d-\d\d-\d\dT[^\"]*", b"", target.make(random.Random(7)).body) for _ in range(20)]
            for _ in range(2)
        )
        assert once == again or target.name == "telemetry.frames.*", target.name


async def test_rubbish_everywhere_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed, ends = asked_seed(14), time.monotonic() + asked_seconds()
    async with running_product(tmp_path / "data", QUICK) as (product, client):
        assert product.runtime is not None
        thrower, after = Thrower(product.runtime, seed), Aftermath(product, client)

        async def settled() -> bool:
            return await thrower.behind() <= 5 and not any((await product.readiness()).values())

        try:
            while thrower.rounds < ROUNDS or time.monotonic() < ends:
                await thrower.round(EACH)
                assert not after.restarts()
                await eventually(thrower.keeps_up, 180, "consumers that keep up")
                if thrower.rounds % 20 == 0:
                    await thrower.take_back()
                    await after.honest_jobs_succeed(SIMPLE_JOBS)
            await thrower.take_back()
            await eventually(settled, 90, "every consumer past the rubbish and every service ready")
            await after.honest_jobs_succeed(SIMPLE_JOBS | (WITH_A_MODEL if asked_seconds() else {}))
            await after.samples_reach_the_database()
            await after.dead_letters_are_listed()
            await after.alerts_reach_receivers()
            assert await after.metric("autopilot_messages_poison_total") > 0
            assert await after.stored("POISON") > 0
            assert after.restarts() == {}
        finally:
            with capsys.disabled():
                print(f"\n{thrower.report()}\n{await after.report()}")
            await thrower.close()
