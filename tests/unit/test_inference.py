"""Batch sizes, retries, placement, reading jobs, and the kinds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.echo import Echo, EchoResult
from accelerator_autopilot.contracts.messages.jobs import Job, JobError
from accelerator_autopilot.inference.errors import KindFailedError, ModelLoadError, RetryableJobError
from accelerator_autopilot.inference.jobs.dead_lettering import explain
from accelerator_autopilot.inference.jobs.decoding import read_job
from accelerator_autopilot.inference.jobs.retry_policy import EndJob, Retry, after_error, before_attempt
from accelerator_autopilot.inference.kinds import registry
from accelerator_autopilot.inference.kinds.base import RunContext
from accelerator_autopilot.inference.kinds.echo import EchoKind
from accelerator_autopilot.inference.kinds.summarize import choose, split
from accelerator_autopilot.inference.pool.domain.placement import idle_devices, plan
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.batch_execution import run_safely, run_to_json
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from accelerator_autopilot.inference.worker.domain.batch_sizing import BatchSizer
from tests.support.builders import T0, at


def job(**more: Any) -> Job:
    return Job.model_validate({"id": "j", "kind": "echo", "priority": "normal", "submitted_at": T0} | more)


def context(count: int = 1, **more: Any) -> RunContext:
    base = {
        "models": ModelSettings(), "scratch": ScratchFolders(None),
        "attempts": [1] * count, "progress": lambda *_: None,
        "cancelled": lambda _: False,
    }  # fmt: skip
    return RunContext(**(base | more))


class TestBatchSizer:
    def test_short_jobs_grow_the_batch_and_long_ones_shrink_it(self) -> None:
        sizer = BatchSizer(largest=256)
        for _ in range(10):
            sizer.record(sizer.size, 0.0001 * sizer.size)
        assert sizer.size == 256
        sizer.record(256, 25.6)
        assert sizer.size == 2
        sizer.record(2, 4.0)
        assert sizer.size == 1
        assert not sizer.prefetches

    @given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 100)), max_size=50))
    def test_it_stays_within_its_bounds(self, batches: list[tuple[int, float]]) -> None:
        sizer = BatchSizer(largest=64)
        for count, took in batches:
            sizer.record(count, took)
            assert 1 <= sizer.size <= 64


class TestRetry:
    def errors(self, count: int) -> list[JobError]:
        return [JobError(attempt=i + 1, type="E", message="m", worker="w", at=T0) for i in range(count)]

    def test_expired_exhausted_and_worker_killing_jobs_are_not_run(self) -> None:
        assert before_attempt(job(ttl_s=10), 1, [], at(11)) == EndJob("expired")
        assert before_attempt(job(max_attempts=2), 3, self.errors(2), at(1)) == EndJob("attempts_exhausted")
        assert before_attempt(job(max_attempts=1), 22, [], at(1)) == EndJob("attempts_exhausted")
        assert before_attempt(job(max_attempts=1), 21, [], at(1)) is None
        assert before_attempt(job(max_attempts=20), 4, [], at(1), kills=3) == EndJob("attempts_exhausted")
        assert before_attempt(job(max_attempts=20), 4, [], at(1), kills=2) is None

    def test_what_may_pass_is_tried_again_with_growing_delays(self) -> None:
        delays = [after_error(job(max_attempts=9), RetryableJobError("x"), n) for n in range(1, 6)]
        assert all(isinstance(d, Retry) for d in delays)
        assert [d.delay_s for d in delays] == sorted(d.delay_s for d in delays)
        assert after_error(job(max_attempts=3), RetryableJobError("x"), 3) == EndJob("attempts_exhausted")
        assert after_error(job(), InvalidInputError("f", 1, "r"), 1) == EndJob("permanent_error")


class TestPlacement:
    def test_new_workers_go_where_the_fewest_are(self) -> None:
        assert plan(3, ["a", "b"], set(), {"w1": "a"}).start == ["b", "a"]

    def test_what_still_starts_goes_first_then_what_idles_and_last_what_works(self) -> None:
        workers = {"w1": "a", "w2": "b", "w3": "c", "w4": "d"}
        busy, starting = {"w1", "w4"}, {"w2"}
        drained = [plan(n, "abcd", set(), workers, busy, starting).drain for n in (3, 2, 1)]
        assert drained == [["w2"], ["w2", "w3"], ["w2", "w3", "w4"]]

    def test_cordoned_devices_are_emptied_and_replaced(self) -> None:
        changes = plan(2, ["a", "b"], {"a"}, {"w1": "a", "w2": "b"})
        assert changes.drain == ["w1"]
        assert changes.start == ["b"]

    def test_a_device_that_is_to_rest_gives_its_worker_to_a_healthy_one_that_nobody_uses(self) -> None:
        assert idle_devices("ab", set(), {"a"}, ["a"]) == {"a"}
        assert idle_devices("ab", set(), {"a"}, ["b"]) == set()
        assert idle_devices("ab", set(), {"a"}, ["a", "b"]) == set(), "b has a worker"
        assert idle_devices("ab", {"b"}, {"a"}, ["a"]) == set(), "b is cordoned"
        assert idle_devices("ab", set(), {"a", "b"}, ["a"]) == set(), "b is no better"
        assert idle_devices("abc", set(), {"a", "b"}, ["a", "b"]) == {"a"}, "only one can go to c"

    @given(
        desired=st.integers(0, 8), devices=st.lists(st.sampled_from("abcd"), unique=True),
        cordoned=st.sets(st.sampled_from("abcd")),
        workers=st.dictionaries(st.text("w123456789", min_size=1, max_size=3), st.sampled_from("abcdx"), max_size=8),
    )  # fmt: skip
    def test_the_plan_reaches_what_is_wanted_on_healthy_devices(
        self, desired: int, devices: list[str], cordoned: set[str], workers: dict[str, str]
    ) -> None:
        changes = plan(desired, devices, cordoned, workers)
        kept = {n: d for n, d in workers.items() if n not in changes.drain}
        usable = [d for d in devices if d not in cordoned]
        assert len(set(changes.drain)) == len(changes.drain)
        assert all(d in usable for d in [*kept.values(), *changes.start])
        assert len(kept) + len(changes.start) == (desired if usable else 0)
        assert not (changes.start and any(workers[n] in usable for n in changes.drain))


class TestReadJob:
    def read(self, body: bytes, subject: str = "jobs.echo.high.j=2E1") -> Job:
        return read_job(subject, body, 7, T0)

    def test_what_the_body_leaves_out_comes_from_the_subject_and_the_stream(self) -> None:
        read = self.read(b"{}")
        assert (read.id, read.kind, read.priority, read.submitted_at) == ("j.1", "echo", "high", T0)
        assert self.read(b"{}", "jobs.echo.low").id == "seq-7"
        assert self.read(b'{"id": "mine"}', "jobs.echo.low").id == "mine"

    @pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[1]", b'{"max_attempts": 0}', b'{"kind": "other"}', b"null"])
    def test_what_is_no_job_is_refused(self, body: bytes) -> None:
        with pytest.raises((ValidationError, ValueError, InvalidInputError)):
            self.read(body)


class TestKinds:
    def test_one_bad_input_does_not_take_the_others_with_it(self) -> None:
        class Fragile(EchoKind):
            def run(self, inputs: Any, context: RunContext) -> Any:
                if any(i.text == "bad" for i in inputs):
                    raise RuntimeError("boom")
                return super().run(inputs, context)

        texts = ["a", "bad", "b"]
        outputs = run_safely(Fragile(), [Echo(text=t) for t in texts], context(3), BatchSizer(largest=3))
        assert [type(o).__name__ for o in outputs] == ["EchoResult", "KindFailedError", "EchoResult"]

    @pytest.mark.parametrize(
        ("error", "of_device"),
        [(TypeError("secret"), False), (KeyError("secret"), False), (SystemExit("secret"), True),
         (RuntimeError("secret"), True), (OSError(28, "secret"), True)],
    )  # fmt: skip
    def test_what_is_no_error_of_ours_is_tried_again_and_never_quoted(
        self, error: BaseException, of_device: bool
    ) -> None:
        class Fragile(EchoKind):
            def run(self, inputs: Any, context: RunContext) -> Any:
                raise error

        (output,) = run_safely(Fragile(), [Echo()], context(), BatchSizer(largest=1))
        assert isinstance(output, KindFailedError)
        assert (output.reported_as, output.of_device) == (type(error).__name__, of_device)
        assert explain(output).startswith(f"echo failed: {type(error).__name__} at test_inference.py:")
        assert "secret" not in explain(output)
        assert isinstance(after_error(job(), output, 1), Retry)
        assert after_error(job(), output, job().max_attempts) == EndJob("attempts_exhausted")
        assert "secret" not in explain(error)

    def test_an_error_of_ours_is_the_jobs_own_for_good(self) -> None:
        (output,) = run_safely(EchoKind(), [Echo(fail="permanently")], context(), BatchSizer(largest=1))
        assert isinstance(output, InvalidInputError)
        assert after_error(job(), output, 1) == EndJob("permanent_error")

    @pytest.mark.parametrize("gives", [0, 1, 5])
    def test_a_kind_that_gives_another_number_of_outputs_ends_each_job_with_that_and_blames_no_device(
        self, gives: int
    ) -> None:
        class Miscounts(EchoKind):
            def run(self, inputs: Any, context: RunContext) -> Any:
                return (EchoResult(text="x") for _ in range(gives if len(inputs) > 1 else 2))

        outputs = run_to_json(Miscounts(), [Echo()] * 3, context(3), BatchSizer(largest=3))
        assert [explain(o) for o in outputs if isinstance(o, KindFailedError) and not o.of_device] == [
            "echo failed: it returned 2 outputs for 1 inputs"
        ] * 3

    def test_an_output_that_cannot_be_told_fails_the_attempt(self) -> None:
        class Odd(EchoKind):
            def run(self, inputs: Any, context: RunContext) -> Any:
                return [Anything(value=object()), None]

        class Anything(BaseModel):
            value: Any

        outputs = run_to_json(Odd(), [Echo()] * 2, context(2), BatchSizer(largest=2))
        assert [type(o).__name__ for o in outputs] == ["KindFailedError"] * 2

    def test_work_takes_longer_on_a_simulated_device_whose_cap_holds_its_clock_down(self) -> None:
        item, took_s = Echo(work_s=0.2), {}
        for speed in (1.0, 0.25):
            began = time.monotonic()
            EchoKind().run([item], context(1, speed=lambda speed=speed: speed))
            took_s[speed] = time.monotonic() - began
        assert took_s[1.0] >= 0.2
        assert took_s[0.25] >= 0.8

    def test_every_kind_describes_itself(self) -> None:
        kinds = registry()
        assert set(kinds) >= {"echo", "embed", "summarize"}
        for name, kind in kinds.items():
            assert kind.name == name
            assert getattr(kind, "max_batch", 1) >= 1
            assert kind.input.model_json_schema()["additionalProperties"] is False

    def test_sentences_are_split_and_the_central_ones_chosen(self) -> None:
        text = "The pump of rack nine failed at noon. The fans ran at full speed.\n\n- A list item that is long."
        assert len(split(text)) == 3
        assert split("```\nx = some_code(1)\n```\n\nA sentence of plain prose.\n\n| a table | 12 |") == [
            "A sentence of plain prose."
        ]
        vectors = np.array([[1, 0], [0.9, 0.44], [0, 1.0]]) / 1.0
        assert choose(vectors, 1) == [1]
        assert choose(vectors, 9) == [0, 1, 2]


@pytest.mark.slow
class TestRealModel:
    def test_minilm_knows_what_belongs_together(self) -> None:
        from accelerator_autopilot.contracts.kinds.embed import Embed
        from accelerator_autopilot.inference.kinds.embed import KIND

        batch = [
            Embed(texts=["The GPU overheated and was throttled.", "Bake the cake for forty minutes."]),
            Embed(texts=["A graphics card ran too hot."]),
        ]
        first, second = KIND.run(batch, context(2))
        a, b, c = (np.array(v) for v in [*first.vectors, *second.vectors])
        assert a @ c > 0.5 > a @ b
        assert np.linalg.norm(a) == pytest.approx(1, abs=1e-4)

    def test_a_seq2seq_and_a_causal_model_summarise(self, tmp_path: Any) -> None:
        from accelerator_autopilot.inference.adapters.transformers_summarizer import TransformersSummarizer
        from tests.support.tiny_models import save_tiny_causal, save_tiny_seq2seq

        for make, name in ((save_tiny_seq2seq, "t5"), (save_tiny_causal, "gpt2")):
            folder = make(tmp_path / name)
            summarizer = TransformersSummarizer(str(folder), ModelSettings())
            assert isinstance(summarizer.summarize("one two three " * 200), str)

    def test_a_model_that_does_not_exist_is_named(self) -> None:
        from accelerator_autopilot.inference.model_loading import encoder

        with pytest.raises(ModelLoadError, match="no-such-model"):
            encoder(ModelSettings(embed_model="no-such-model"))
