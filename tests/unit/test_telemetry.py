"""Power leases, frames from samples, hung drivers."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.contracts.errors import InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.commands import FleetPolicy
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent.adapters.cpu import CpuSource
from accelerator_autopilot.telemetry.agent.adapters.frame_replay import ReplaySource, save
from accelerator_autopilot.telemetry.agent.adapters.simulated_source import SimulatedSource
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.sampling import Sampler
from accelerator_autopilot.telemetry.agent.domain.frame_assembly import FrameAssembler, TransitionWatch
from accelerator_autopilot.telemetry.agent.domain.power_lease import LeaseBook, LeaseGrant, Moment, Refusal
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer
from accelerator_autopilot.telemetry.errors import SourceBusyError, SourceHungError
from tests.support.builders import T0, at, device, frame, power_command
from tests.support.waiting import eventually


class TestLeaseBook:
    def test_a_cap_within_limits_is_granted_and_expires(self) -> None:
        book = LeaseBook()
        grant = book.judge(power_command(), device(), FleetPolicy(), T0)
        assert grant == LeaseGrant(150.0, clamped=False, restores=False)
        book.record(power_command(), grant, Moment(T0, 5.0))
        book.end_leases(Moment(at(9), 14.0))
        assert book.to_restore == {}
        book.end_leases(Moment(at(10), 15.0))
        assert (list(book.to_restore), book.leases) == (["gpu-0"], {})

    @pytest.mark.parametrize(("wall_s", "steady_s"), [(-3600, 15.0), (10, 5.0)])
    def test_neither_a_clock_set_back_nor_a_sleep_lengthens_a_lease(self, wall_s: float, steady_s: float) -> None:
        book = LeaseBook()
        book.record(power_command(), LeaseGrant(150.0, clamped=False, restores=False), Moment(T0, 5.0))
        book.end_leases(Moment(at(wall_s), steady_s))
        assert list(book.to_restore) == ["gpu-0"]

    @pytest.mark.parametrize(
        ("command", "info", "policy", "seconds", "why"),
        [
            ({}, {}, {}, 31, "expired"),
            ({}, None, {}, 0, "not on this node"),
            ({}, {"power_min_w": None}, {}, 0, "no power control"),
            ({}, {}, {"power": "off"}, 0, "forbids"),
            ({}, {"simulated": False}, {"power": "simulated"}, 0, "forbids"),
            ({"cap_w": 100.0}, {}, {"power_floor_fraction": 0.6}, 0, "floor"),
        ],
    )
    def test_what_must_not_be_is_refused_with_the_reason(
        self, command: dict, info: dict | None, policy: dict, seconds: float, why: str
    ) -> None:
        found = device(**info) if info is not None else None
        verdict = LeaseBook().judge(power_command(**command), found, FleetPolicy(**policy), at(seconds))
        assert isinstance(verdict, Refusal)
        assert why in verdict.detail

    @given(cap=st.floats(1, 2000), floor=st.floats(0, 1))
    def test_no_grant_leaves_the_devices_limits_or_the_policys_floor(self, cap: float, floor: float) -> None:
        verdict = LeaseBook().judge(power_command(cap_w=cap), device(), FleetPolicy(power_floor_fraction=floor), T0)
        if isinstance(verdict, LeaseGrant):
            assert 100 <= verdict.cap_w <= 250
            assert cap >= floor * 250


class TestAssembly:
    def test_a_metric_that_no_device_has_is_not_in_the_frame(self) -> None:
        made = FrameAssembler("n1", 1.0, 1).assemble(0, {"a": {"power_w": 1.0}, "b": {"temp_c": 2.0}})
        assert made is not None
        read = decode(made)
        assert read.metrics == ("power_w", "temp_c")
        assert read.latest() == {"a": {"power_w": 1.0}, "b": {"temp_c": 2.0}}

    def test_lost_and_appeared_come_once_each(self) -> None:
        watch = TransitionWatch()
        kinds = [[e.kind for e in watch.observe(s)] for s in ({"a": {}}, {}, {}, {}, {}, {"a": {}}, {"a": {}})]
        assert kinds == [["appeared"], [], [], ["lost"], [], ["appeared"], []]

    def test_throttling_is_told_when_it_begins_and_ends(self) -> None:
        watch = TransitionWatch()
        masks = (0x1, 0x44, 0x44, 0x4, 0x0)
        told = [[(e.kind, e.message) for e in watch.observe({"a": {"clock_event_reasons": m}})] for m in masks]
        assert told[1] == [("throttle_on", "hw_thermal"), ("throttle_on", "sw_power_cap")]
        assert told[2:] == [[], [("throttle_off", "hw_thermal")], [("throttle_off", "sw_power_cap")]]


class HangingSource:
    """A driver whose call does not return until told to."""

    name = "hanging"

    def __init__(self) -> None:
        self.release = threading.Event()
        self.release.set()

    def discover(self) -> list[Any]:
        return [device()]

    def sample(self) -> dict[str, dict[str, float]]:
        self.release.wait(20)
        return {"gpu-0": {"power_w": 1.0}}

    def poll_events(self) -> list[Any]:
        return []

    def close(self) -> None: ...


class TestSampler:
    def sampler(self, *sources: ThreadedSource, buffer: int = 100) -> tuple[Sampler, list[tuple[str, bytes]]]:
        published: list[tuple[str, bytes]] = []

        async def publish(subject: str, body: bytes, _: str) -> None:
            published.append((subject, body))

        async def put(_: Any) -> None: ...

        health = HealthState("agent")
        return Sampler("n1", 0.05, list(sources), publish, put, health, FrameBuffer(buffer)), published

    async def test_readings_stay_when_the_events_of_a_tick_cannot_be_read(self) -> None:
        class Eventless(HangingSource):
            def poll_events(self) -> list[Any]:
                raise RuntimeError("event queue overflow")

        sampler, published = self.sampler(ThreadedSource(Eventless(), 1.0))
        await sampler.discover_devices()
        publisher = asyncio.create_task(sampler.run_publisher())
        await sampler._tick()
        await eventually(lambda: any(subject.startswith("telemetry.frames") for subject, _ in published))
        publisher.cancel()
        frames = [decode(body).latest() for subject, body in published if subject.startswith("telemetry.frames")]
        assert frames == [{"gpu-0": {"power_w": 1.0}}]

    async def test_a_hung_driver_is_told_and_others_go_on(self) -> None:
        hanging = HangingSource()
        guarded = ThreadedSource(hanging, 0.1)
        sampler, published = self.sampler(guarded, ThreadedSource(SimulatedSource("n1", 1), 1.0))
        await sampler.discover()
        tasks = [asyncio.create_task(sampler.run()), asyncio.create_task(sampler.run_publisher())]

        def events() -> list[str]:
            bodies = [b for s, b in published if s.startswith("telemetry.events")]
            return [DeviceEvent.model_validate_json(b).kind for b in bodies]

        def devices() -> list[str]:
            frames = [decode(b) for s, b in published if s == "telemetry.frames.n1"]
            return list(frames[-1].devices) if frames else []

        try:
            await eventually(lambda: devices() == ["gpu-0", "sim-n1-0"])
            hanging.release.clear()
            await eventually(lambda: "probe_hung" in events())
            await eventually(lambda: devices() == ["sim-n1-0"])
            assert "source hanging" in sampler.health.ready()[1]
            with pytest.raises(SourceHungError):
                await guarded.call(hanging.sample)
            hanging.release.set()
            await eventually(lambda: "probe_recovered" in events())
            assert events().count("probe_hung") == 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def test_a_cap_during_a_sample_and_a_sample_during_a_cap_wait_for_each_other(self) -> None:
        slow = HangingSource()
        guarded = ThreadedSource(slow, 2.0)
        sampler, _ = self.sampler(guarded)
        await sampler.discover()
        for first, second in ((lambda: time.sleep(0.1), slow.sample), (slow.sample, lambda: time.sleep(0.1))):
            results = await asyncio.gather(guarded.call(first), guarded.call(second))
            assert {"gpu-0": {"power_w": 1.0}} in results
        call = asyncio.create_task(guarded.call(lambda: time.sleep(0.1)))
        await asyncio.sleep(0)
        samples, events = await sampler._sample(guarded)
        assert samples == {"gpu-0": {"power_w": 1.0}}
        assert [e.kind for e in events] == ["source_recovered"]
        await call

    async def test_a_call_that_has_no_turn_in_time_is_never_made(self) -> None:
        source, made = HangingSource(), []
        guarded = ThreadedSource(source, 0.05)
        slow = [asyncio.create_task(guarded.call(lambda: time.sleep(0.04))) for _ in range(12)]
        await asyncio.sleep(0)
        with pytest.raises((SourceBusyError, SourceHungError)):
            await guarded.call(lambda: made.append(1))
        await asyncio.gather(*slow, return_exceptions=True)
        assert made == []

    @pytest.mark.parametrize("error", [StopIteration(), SystemExit(2), KeyboardInterrupt(), asyncio.CancelledError()])
    async def test_whatever_a_driver_raises_ends_its_call_alone(self, error: BaseException) -> None:
        def fail() -> None:
            raise error

        guarded = ThreadedSource(HangingSource(), 1.0)
        with pytest.raises(RuntimeError, match=type(error).__name__):
            await guarded.call(fail)
        assert await guarded.call(lambda: 7) == 7

    async def test_a_device_that_no_discovery_has_shown_yet_is_not_lost_with_its_source(self) -> None:
        answers: list[Any] = [{"gpu-0": {"power_w": 1.0}, "gpu-new": {"power_w": 1.0}}]

        class Exporter(HangingSource):
            is_driver = False

            def sample(self) -> dict[str, dict[str, float]]:
                if isinstance(answers[0], Exception):
                    raise answers[0]
                return answers[0]

        sampler, _ = self.sampler(ThreadedSource(Exporter(), 1.0))
        await sampler.discover()
        await sampler._tick()
        answers[0] = UnavailableError("answers 500")
        for _ in range(5):
            await sampler._tick()
        sent = [DeviceEvent.model_validate_json(i.body) for i in sampler.buffer if i.is_event]
        assert {e.device for e in sent if e.kind == "appeared"} == {"gpu-0", "gpu-new"}
        assert "lost" not in {e.kind for e in sent}

    async def test_a_caller_that_gave_up_leaves_its_call_to_finish(self) -> None:
        guarded = ThreadedSource(HangingSource(), 2.0)
        given_up = asyncio.create_task(guarded.call(lambda: time.sleep(0.1)))
        await asyncio.sleep(0.02)
        given_up.cancel()
        assert await guarded.call(lambda: 7) == 7

    async def test_an_exporter_that_fails_is_one_event_about_itself(self) -> None:
        answers: list[Any] = [{"gpu-0": {"power_w": 1.0, "temp_c": math.nan}}]

        class Exporter(HangingSource):
            name, is_driver = "scrape http://h", False

            def sample(self) -> dict[str, dict[str, float]]:
                if isinstance(answers[0], Exception):
                    raise answers[0]
                return answers[0]

        sampler, _ = self.sampler(ThreadedSource(Exporter(), 1.0))
        await sampler.discover()
        good = answers[0]
        for answer, ticks in ((good, 2), (UnavailableError("answers 500"), 8), (good, 4), ({}, 3), (good, 1)):
            answers[0] = answer
            for _ in range(ticks):
                await sampler._tick()
        sent = [DeviceEvent.model_validate_json(i.body) for i in sampler.buffer if i.is_event]
        assert [(e.device, e.kind, e.cause) for e in sent] == [
            ("scrape http://h", "source_recovered", ""),
            ("gpu-0", "appeared", "agent_started"),
            ("scrape http://h", "source_failed", ""),
            ("scrape http://h", "source_recovered", ""),
            ("gpu-0", "lost", ""),
            ("gpu-0", "appeared", "returned"),
        ]
        frames = [decode(i.body).latest() for i in sampler.buffer if not i.is_event]
        assert frames[0] == {"gpu-0": {"power_w": 1.0}}
        assert frames[4] == {"gpu-0": {"read_errors": 1.0}}
        assert sampler.health.ready()[1].keys() == {"started"}

    async def test_a_source_that_breaks_ends_neither_discovery_nor_the_loop(self) -> None:
        class Broken(HangingSource):
            name = "broken"

            def discover(self) -> list[Any]:
                raise KeyError("one bad card")

            def sample(self) -> dict[str, dict[str, float]]:
                raise RuntimeError("no")

        sampler, _ = self.sampler(ThreadedSource(Broken(), 1.0), ThreadedSource(SimulatedSource("n1", 1), 1.0))
        await sampler.discover()
        for _ in range(4):
            await sampler._tick()
        assert list(sampler.devices) == ["sim-n1-0"]
        assert "one bad card" in sampler._states["broken"]
        kinds = [DeviceEvent.model_validate_json(i.body).kind for i in sampler.buffer if i.is_event]
        assert "source_failed" in kinds

    async def test_frames_wait_in_order_while_the_broker_is_away(self) -> None:
        sampler, _ = self.sampler(ThreadedSource(SimulatedSource("n1", 1), 1.0))
        away, sequences = True, []

        async def publish(subject: str, body: bytes, _: str) -> None:
            if away:
                raise UnavailableError("gone")
            if subject == "telemetry.frames.n1":
                sequences.append(decode(body).sequence)

        sampler.publish = publish
        await sampler.discover()
        tasks = [asyncio.create_task(sampler.run()), asyncio.create_task(sampler.run_publisher())]
        try:
            await eventually(lambda: len(sampler.buffer) >= 5)
            away = False
            await eventually(lambda: len(sequences) >= 5)
            assert sequences == list(range(1, len(sequences) + 1))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def test_frames_do_not_wait_behind_an_event_of_each_of_many_devices(self) -> None:
        many = 160
        sampler, _ = self.sampler(ThreadedSource(SimulatedSource("n1", many), 1.0), buffer=1000)
        stored: dict[str, list[str]] = {}
        on_the_way: Counter[str] = Counter()
        busiest = 0

        async def publish(subject: str, _: bytes, message_id: str) -> None:
            nonlocal busiest
            on_the_way[subject] += 1
            busiest = max(busiest, on_the_way[subject])
            await asyncio.sleep(0.05)
            on_the_way[subject] -= 1
            stored.setdefault(subject, []).append(message_id)

        sampler.publish = publish
        await sampler.discover()
        tasks = [asyncio.create_task(sampler.run()), asyncio.create_task(sampler.run_publisher())]
        try:
            # One after the other that many would take eight seconds.
            await eventually(lambda: len(stored.get("telemetry.frames.n1", [])) == 2, 4)
            assert len(stored) > many - 16
            assert busiest == 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class TestOtherSources:
    def test_the_cpu_reads_real_numbers(self) -> None:
        source = CpuSource()
        info = source.discover()[0]
        sample = source.sample()[info.device]
        assert 0 <= sample["gpu_util_pct"] <= 100
        assert 0 < sample["memory_used_bytes"] < sample["memory_total_bytes"] == info.memory_bytes

    def test_a_recording_plays_in_a_loop(self, tmp_path: Path) -> None:
        path = tmp_path / "frames.bin"
        save(path, [frame(ticks=2, value=1.0), frame(start=at(2), value=5.0)])
        source = ReplaySource(path)
        seen = [source.sample()["gpu-0"]["power_w"] for _ in range(4)]
        assert seen == [1.0, 1.0, 5.0, 1.0]

    def test_a_recording_that_is_cut_off_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "frames.bin"
        save(path, [frame()])
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(InvalidInputError):
            ReplaySource(path)
