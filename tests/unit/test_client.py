"""The client's parts that need no server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import accelerator_autopilot as ap
from accelerator_autopilot.client import connect_settings as settings_module
from accelerator_autopilot.client.aio.job import AsyncJob
from accelerator_autopilot.client.connect_settings import connect_settings
from accelerator_autopilot.client.loop_thread import LoopThread
from accelerator_autopilot.client.output_parsing import parse_output
from accelerator_autopilot.client.recent_telemetry import History, columns_of
from accelerator_autopilot.client.submit_options import job_options, kind_and_body, make_payload, moment
from accelerator_autopilot.client.sync.job import Job
from accelerator_autopilot.contracts.dataframe_conversion import Rows
from accelerator_autopilot.contracts.messages.jobs import JobError, JobNeeds, JobResult
from tests.support.builders import T0, frame
from tests.support.client import result
from tests.support.waiting import eventually

NONE: dict[str, Any] = {
    "priority": "normal", "pool": None, "needs": None, "deadline": None, "not_before": None, "after": (),
    "time_limit": None, "max_attempts": 3, "keep_result": 60.0,
}  # fmt: skip


class TestPayloads:
    def test_none_is_the_default_and_arrays_are_lists(self) -> None:
        made = make_payload(ap.Embed, texts=np.array(["a", "b"]), model=None)
        assert made == ap.Embed(texts=["a", "b"])
        assert kind_and_body(made, None) == ("embed", {"texts": ["a", "b"]}, ap.EmbedResult)
        assert make_payload(ap.Embed, texts=(t for t in "ab")).texts == ["a", "b"]

    def test_a_wrong_field_is_named(self) -> None:
        with pytest.raises(ap.InvalidInputError, match="max_sentences=99"):
            make_payload(ap.Summarize, text="x", max_sentences=99)
        with pytest.raises(ap.InvalidInputError, match="texts"):
            make_payload(ap.Embed, texts="one text is no list")

    def test_files_and_aliases_travel_as_the_kind_reads_them(self, tmp_path: Path) -> None:
        (tmp_path / "x.py").write_bytes(b"\xff")
        made = make_payload(ap.AnalyzeCode, files=[ap.File.read(tmp_path / "x.py")])
        assert kind_and_body(made, None)[1] == {"files": [{"name": "x.py", "base64": "/w=="}]}
        assert kind_and_body(make_payload(ap.Extract, text="t", schema={"a": 1}), None)[1]["schema"] == {"a": 1}

    def test_a_plain_dictionary_needs_its_kind(self) -> None:
        assert kind_and_body({"a": 1}, "mine") == ("mine", {"a": 1}, None)
        with pytest.raises(ap.InvalidInputError, match="kind"):
            kind_and_body({"a": 1}, None)


class TestOptions:
    def test_moments_are_given_in_three_ways(self) -> None:
        assert moment("deadline", 60, T0) == moment("deadline", timedelta(minutes=1), T0) == T0 + timedelta(minutes=1)
        there = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
        assert moment("deadline", there, T0) is there
        with pytest.raises(ap.InvalidInputError, match="time zone"):
            moment("deadline", datetime(2026, 1, 1), T0)  # noqa: DTZ001  that is what is refused

    def test_a_pool_joins_other_needs_and_jobs_stand_for_their_ids(self) -> None:
        made = job_options(
            **NONE | {"pool": "big", "needs": JobNeeds(device="gpu"), "after": [SimpleNamespace(id="a"), "b"]}
        )
        assert made["needs"] == JobNeeds(device="gpu", pool="big")
        assert made["after"] == ["a", "b"]
        with pytest.raises(ap.InvalidInputError, match="pool"):
            job_options(**NONE | {"pool": ""})

    def test_what_may_begin_later_than_in_a_day_is_not_given_up_after_one(self) -> None:
        assert job_options(**NONE)["ttl_s"] == 86_400
        assert job_options(**NONE | {"deadline": 60})["ttl_s"] == 86_400
        assert job_options(**NONE | {"deadline": timedelta(days=3)})["ttl_s"] == pytest.approx(3 * 86_400, abs=1)
        assert job_options(**NONE | {"deadline": timedelta(days=300)})["ttl_s"] == 7 * 86_400


class TestSettings:
    @pytest.fixture(autouse=True)
    def _nothing_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in [n for n in os.environ if n.startswith("AUTOPILOT_")]:
            monkeypatch.delenv(name)
        monkeypatch.setattr(settings_module, "DEFAULT_DATA_DIR", tmp_path)

    def test_without_an_address_the_product_on_this_machine_is_found(self, tmp_path: Path) -> None:
        assert connect_settings(None).nats_url == "nats://127.0.0.1:4222"
        (tmp_path / "runtime.json").write_text('{"nats_url": "nats://here:1", "nats_user": "u", "nats_password": "p"}')
        found = connect_settings(None)
        assert (found.nats_url, found.nats_user) == ("nats://here:1", "u")
        assert connect_settings("nats://there:2").nats_user is None
        (tmp_path / "runtime.json").write_text('{"nats_url": 1')
        assert connect_settings(None).nats_url == "nats://127.0.0.1:4222"

    def test_the_environment_comes_before_what_runs_here(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "runtime.json").write_text('{"nats_url": "nats://here:1", "nats_user": "u", "nats_password": "p"}')
        monkeypatch.setenv("AUTOPILOT_NATS_URL", "nats://env:3")
        assert (connect_settings(None).nats_url, connect_settings(None).nats_user) == ("nats://env:3", None)

    def test_several_addresses_and_a_token(self) -> None:
        found = connect_settings(["nats://a:1", "nats://b:2"], token="secret")
        assert found.servers == ["nats://a:1", "nats://b:2"]
        assert "secret" not in repr(found)

    @pytest.mark.parametrize(
        ("given", "field"), [({"user": "u"}, "user"), ({"password": "p"}, "user"), ({"ca": "/no/such"}, "ca")]
    )
    def test_what_is_wrong_is_named(self, given: dict[str, str], field: str) -> None:
        with pytest.raises(ap.InvalidInputError, match=f"^{field}="):
            connect_settings(None, **given)


class TestTables:
    def test_results_become_frames(self) -> None:
        vectors = ap.EmbedResult(vectors=[[0.0, 1.0], [1.0, 0.0]], model="m", dimensions=2)
        assert vectors.to_polars().shape == (2, 2)
        assert np.asarray(vectors).shape == (2, 2)
        assert np.asarray(ap.EmbedResult(vectors=[], model="m", dimensions=2)).shape == (0, 2)
        found = ap.ClassifyResult.model_validate(
            {"results": [{"label": "a", "score": 1, "scores": {"a": 1, "b": 0}}], "method": "zero_shot", "model": "m"}
        )
        assert found.rows() == [{"label": "a", "score": 1.0, "score_a": 1.0, "score_b": 0.0}]

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ap.UnavailableError, match="pip install pandas"):
            Rows([result()]).to_pandas()

    def test_pandas_gets_the_same_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
        kind, rows = Rows([result()]).to_pandas()
        assert kind == "frame"
        assert rows[0]["job_id"] == "j"

    def test_frames_become_one_table_in_order(self) -> None:
        frames = [
            frame(node="n2", devices=("a",), metrics=("power_w",), ticks=2),
            frame(node="n1", devices=("a", "b"), metrics=("power_w", "temp_c"), ticks=2),
        ]
        table = History(columns_of(frames, datetime.fromtimestamp(frames[0].start_us / 1e6, UTC)))
        assert len(table) == 6
        assert table.metrics == ["power_w", "temp_c"]
        rows = table.rows()
        assert [(r["node"], r["device"]) for r in rows[:3]] == [("n1", "a"), ("n1", "b"), ("n2", "a")]
        assert rows[0]["time"] == frames[0].tick_time(0)
        assert np.isnan(rows[2]["temp_c"]), "a metric that a node has not"
        assert table.to_polars().height == 6
        only = columns_of(frames, frames[0].tick_time(1), device="b", metrics=["temp_c"])
        assert (list(only), len(only["time"])) == (["time", "node", "device", "temp_c"], 1)
        with pytest.raises(ap.InvalidInputError, match="power_w, temp_c"):
            columns_of(frames, T0, metrics=["watts"])
        assert len(History(columns_of([], T0, metrics=["temp_c"]))) == 0


class TestOutputs:
    def test_an_output_is_its_model(self) -> None:
        assert parse_output(result(), ap.EchoResult) == ap.EchoResult(text="x")
        assert parse_output(result(), None) == {"text": "x"}

    def test_what_is_none_says_why(self) -> None:
        error = JobError(attempt=1, type="ValueError", message="too hot", worker="w", at=T0)
        with pytest.raises(ap.JobFailedError, match="too hot"):
            parse_output(result("failed", errors=[error]), ap.EchoResult)
        with pytest.raises(ap.JobCancelledError):
            parse_output(result("cancelled"), ap.EchoResult)
        with pytest.raises(ap.MalformedMessageError, match="EchoResult"):
            parse_output(result(output={"other": 1}), ap.EchoResult)


class FakeAutopilot:
    """Cancels when asked, and knows no pools."""

    def __init__(self, future: asyncio.Future[JobResult]) -> None:
        self.jobs = self.fleet = self
        self._future = future

    async def cancel(self, _: str) -> None:
        self._future.set_result(result("cancelled"))

    async def pools(self) -> list[Any]:
        return []


async def _job(model: Any = ap.EchoResult) -> tuple[AsyncJob[Any], asyncio.Future[JobResult]]:
    future: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
    autopilot: Any = FakeAutopilot(future)
    return AsyncJob(autopilot, future, job_id="j", kind="echo", model=model), future


class TestFutures:
    def job(self, thread: LoopThread) -> tuple[Job[Any], Any]:
        job, future = thread.run(_job())
        return Job(thread, job), lambda end: thread.call_soon(
            future.set_exception if isinstance(end, Exception) else future.set_result, end
        )

    def test_it_is_a_future_of_the_standard_library(self, thread: LoopThread) -> None:
        jobs = [self.job(thread) for _ in range(3)]
        done, left = concurrent.futures.wait([job for job, _ in jobs], timeout=0.01)
        assert (len(done), len(left)) == (0, 3)
        for number in (2, 0, 1):
            jobs[number][1](result(output={"text": str(number)}))
        finished = concurrent.futures.as_completed([job for job, _ in jobs], timeout=5)
        assert {job.result().text for job in finished} == {"0", "1", "2"}
        assert jobs[0][0].details().status == "succeeded"
        assert jobs[0][0].exception() is None

    def test_callbacks_may_wait_for_other_jobs(self, thread: LoopThread) -> None:
        (first, end_first), (second, end_second) = self.job(thread), self.job(thread)
        seen: list[str] = []
        told = threading.Event()

        def then(job: Any) -> None:
            seen.extend([job.result().text, second.result(5).text])
            told.set()

        first.add_done_callback(then)
        end_first(result(output={"text": "1"}))
        end_second(result(output={"text": "2"}))
        assert told.wait(5)
        assert seen == ["1", "2"]

    def test_failures_are_raised(self, thread: LoopThread) -> None:
        job, end = self.job(thread)
        end(result("failed"))
        with pytest.raises(ap.JobFailedError, match="no reason"):
            job.result(5)
        assert isinstance(job.exception(), ap.JobFailedError)
        assert job.details().status == "failed"
        assert job.cancel() is False

    def test_a_cancelled_job_is_cancelled(self, thread: LoopThread) -> None:
        job, _ = self.job(thread)
        assert job.cancel() is True
        assert (job.cancelled(), job.done(), job.cancel()) == (True, True, True)
        with pytest.raises(concurrent.futures.CancelledError):
            job.result()
        with pytest.raises(ap.JobCancelledError):
            job.exception()
        other, end = self.job(thread)
        end(result("cancelled"))
        concurrent.futures.wait([other], timeout=5)
        assert other.cancelled(), "somebody else cancelled it"

    def test_waiting_in_vain_says_what_to_start(self, thread: LoopThread) -> None:
        job, _ = self.job(thread)
        with pytest.raises(TimeoutError, match=r"no worker runs 'echo'.*autopilot up"):
            job.result(0.01)

    def test_a_connection_that_is_gone_ends_the_waiting(self, thread: LoopThread) -> None:
        job, end = self.job(thread)
        end(ap.UnavailableError("closed"))
        with pytest.raises(ap.UnavailableError, match="closed"):
            job.result(5)

    async def test_it_can_be_awaited(self, thread: LoopThread) -> None:
        job, end = self.job(thread)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job, 0.01)
        assert not job.done(), "who stops waiting ends no job"
        end(result())
        assert (await job).text == "x"

    def test_a_callback_that_comes_after_the_end_is_called(self, thread: LoopThread) -> None:
        job, end = self.job(thread)
        end(result())
        job.result(5)
        thread.stop()
        seen: list[Any] = []
        job.add_done_callback(seen.append)
        assert seen == [job]

    async def test_the_asynchronous_one_is_the_same(self) -> None:
        job, future = await _job()
        with pytest.raises(TimeoutError, match="no worker"):
            await job.result(0.01)
        assert not job.done()
        seen: list[Any] = []
        job.add_done_callback(seen.append)
        future.set_result(result())
        assert await job == ap.EchoResult(text="x")
        assert (job.done(), job.cancelled(), await job.exception()) == (True, False, None)
        await eventually(lambda: seen == [job])
        other, _ = await _job()
        assert await other.cancel()
        assert other.cancelled()
        with pytest.raises(ap.JobCancelledError):
            await other


async def test_a_client_that_is_not_connected_says_so() -> None:
    fleet = ap.connect_async("nats://127.0.0.1:1")
    with pytest.raises(ap.UnavailableError, match="async with"):
        await fleet.devices()
    with pytest.raises(ap.UnavailableError, match="async with"):
        _ = fleet.alerts
    assert not fleet.connected
    await fleet.close()
