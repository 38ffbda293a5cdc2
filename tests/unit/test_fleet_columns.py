"""The newest readings of many devices, kept as columns and read without unpacking what did not change."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import UnavailableError
from accelerator_autopilot.contracts.frames import TelemetryFrame, encode
from accelerator_autopilot.contracts.metric_catalogue import NAMES
from accelerator_autopilot.scheduler.adapters.latest_frames import LatestFrames
from accelerator_autopilot.scheduler.application.bounded_concurrency import in_flight
from accelerator_autopilot.scheduler.application.power_cap_state import PowerCapState
from accelerator_autopilot.scheduler.domain.device_facts import DeviceRegistry
from accelerator_autopilot.scheduler.domain.latest_readings import LatestReadings, Readings
from tests.support.builders import at, device, frame

METRICS = ("power_w", "temp_c", "power_cap_w")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def newest() -> tuple[LatestFrames, Clock]:
    clock = Clock()
    return LatestFrames(LatestReadings(METRICS), clock, 10.0, CollectorRegistry()), clock


def put(frames: LatestFrames, *told: TelemetryFrame) -> None:
    for each in told:
        frames.put(subjects.frames(each.node), encode(each))


@given(
    ticks=st.integers(1, 4), devices=st.integers(1, 40), metrics=st.integers(1, 30), sequence=st.integers(0, 2**40),
    later=st.integers(0, 10**9),
)  # fmt: skip
async def test_values_taken_from_between_are_those_that_a_frame_unpacks_to(
    ticks: int, devices: int, metrics: int, sequence: int, later: int
) -> None:
    rng = np.random.default_rng(sequence)
    names = tuple(f"d{i}" for i in range(devices)), (*METRICS, *(f"m{i}" for i in range(metrics)))
    shape = (ticks, devices, len(names[1]))
    first = TelemetryFrame("n", 10**15, 1.0, *names, rng.random(shape, np.float32), sequence, 5)
    others = [replace(first, node=f"other-{i}", values=rng.random(shape, np.float32)) for i in range(3)]
    frames, clock = newest()
    put(frames, first, *others)
    await frames.read()
    changed = replace(first, start_us=10**15 + later, values=rng.random(shape, np.float32), sequence=sequence + 1)
    renamed = replace(others[0], devices=("x0", *names[0][1:]), values=rng.random(shape, np.float32))
    slower = replace(others[1], period_s=2.0, values=rng.random(shape, np.float32))
    put(frames, changed, renamed, slower)
    await frames.read()
    for told in (changed, renamed, slower, others[2]):
        devices_of = [(told.node, device) for device in told.devices]
        for place, metric in enumerate(METRICS):
            readings = frames.columns.readings(metric, clock.now - 10.0).many(devices_of)
            assert readings.tolist() == told.values[-1, :, place].tolist(), told.node
    assert np.isnan(frames.columns.readings("power_w", 0.0).many([("other-0", "d0")])).all(), "it is called x0 now"


async def test_only_the_newest_tick_counts_and_not_for_long() -> None:
    frames, clock = newest()
    values = np.array([[[1.0, 2.0]], [[3.0, np.inf]]], np.float32)
    put(frames, replace(frame(metrics=("power_w", "temp_c"), ticks=2), values=values))
    await frames.read()

    def told(metric: str) -> float | None:
        return frames.columns.readings(metric, clock.now - 10.0).get(("n1", "gpu-0"))

    assert told("power_w") == 3.0
    assert told("temp_c") is None, "an infinite reading is none"
    assert told("power_cap_w") is None
    put(frames, frame(metrics=("temp_c",), value=50.0))
    await frames.read()
    assert (told("power_w"), told("temp_c")) == (None, 50.0), "what the newest frame lacks is not known"
    clock.now += 10.5
    assert told("temp_c") is None
    await frames.read()
    assert len(frames.columns) == 0, "a node that fell silent is forgotten"


async def test_devices_that_come_and_go_do_not_keep_rows_or_readings() -> None:
    frames, clock = newest()
    for number in range(50):
        devices = tuple(f"mig-{number}-{i}" for i in range(100))
        put(frames, frame(devices=devices, value=float(number)), frame("n2", devices=("a", "b"), value=7.0))
        await frames.read()
        told = frames.columns.readings("power_w", clock.now - 10.0)
        assert len(frames.columns) == 102
        assert set(told.many([("n1", d) for d in devices]).tolist()) == {float(number)}
        assert told.many([("n2", "b"), ("n1", "mig-0-0"), ("x", "y")])[0] == 7.0
        assert np.isnan(told.many([("x", "y")])).all()


async def test_frames_that_are_none_and_frames_of_others_are_left_out() -> None:
    frames, clock = newest()
    put(frames, frame("good", value=5.0))
    frames.put(subjects.frames("other"), encode(frame("good", value=9.0)))
    frames.put(subjects.frames("bad"), b"\xff" * 100)
    await frames.read()
    assert frames.columns.readings("power_w", clock.now - 10.0).get(("good", "gpu-0")) == 5.0
    assert len(frames.columns) == 1


async def test_a_large_fleet_is_read_in_a_fraction_of_the_time_between_two_rounds() -> None:
    frames, clock = newest()
    names, rng = tuple(dict.fromkeys((*METRICS, *NAMES)))[:24], np.random.default_rng(0)
    devices = tuple(f"gpu-{i}" for i in range(8))
    block = rng.random((1, 8, 24), np.float32)
    fleet = [TelemetryFrame(f"n{i}", 10**15, 1.0, devices, names, block, 70_000) for i in range(2_500)]
    put(frames, *fleet)
    await frames.read()
    put(frames, *(replace(each, start_us=each.start_us + 10**6) for each in fleet))
    began = time.process_time()
    await frames.read()
    for metric in METRICS:
        assert len(frames.columns.readings(metric, clock.now - 10.0).many([("n7", "gpu-3")])) == 1
    # A dictionary of every metric of these, four times, took 1.8 s.
    assert time.process_time() - began < 0.4


async def test_the_board_of_caps_follows_the_inventory_and_remembers_what_was_set() -> None:
    book, board = DeviceRegistry(), PowerCapState()
    infos = [device(device=f"g{i}") for i in range(3)]
    for node in range(300):
        book.take(f"n{node}", "b1", infos)
    await board.follow(book)
    kept = book.nodes["n7"]
    book.take("n7", "b1", [device(device=f"g{i}") for i in range(3)])
    assert book.nodes["n7"] is kept, "a node that says the same stays the same"
    board.remember(("n7", "g1"), 150.0, at(3))
    book.take("n7", "b2", [*infos, device(device="g3", model="A40")])
    book.forget("n9")
    await board.follow(book)
    assert board.ours() == {("n7", "g1"): (150.0, at(3).timestamp())}
    made = board.board(Readings.of({}), {("n7", "g3"): 1.0, ("n9", "g0"): 1.0}, 0.8)
    assert len(made.rows) == 300 * 3 + 1 - 3
    assert made.default_w.sum() == 250.0 * len(made.rows), "rows without a device weigh nothing"
    assert [made.devices[row] for row in made.rows_of_model("A40")] == [("n7", "g3")]
    assert {d for d in made.devices if d[0] == "n9"} == set()
    book.take("n7", "b2", infos[2:])
    await board.follow(book)
    assert board.ours() == {}
    assert set(book.epochs.values()) == {("b1", ""), ("b2", "")}


async def test_what_waits_for_the_broker_waits_together_and_ends_at_the_first_refusal() -> None:
    begun: list[int] = []
    left: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        if number == 5:
            raise UnavailableError("away")

    await in_flight(range(5), work, left_out=left.append)
    with pytest.raises(UnavailableError):
        await in_flight(range(5, 300), work, left_out=left.append, most=8)
    assert sorted(begun + left) == list(range(300))
    assert len(left) > 280
