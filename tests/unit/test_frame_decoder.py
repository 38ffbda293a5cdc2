"""Frames that are read by what differs from the one before mean what they mean unpacked."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import MalformedMessageError
from accelerator_autopilot.contracts.frame_decoder import FrameDecoder
from accelerator_autopilot.contracts.frames import TelemetryFrame, decode, encode

SUBJECT = subjects.frames("n")
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**62))


def frame(number: int, seed: int = 0, ticks: int = 1) -> TelemetryFrame:
    values = np.random.default_rng(seed).normal(300, 40, (ticks, 2, 3)).astype(np.float32)
    return TelemetryFrame("n", 10**15 + seed, 1.0, ("a", "b"), ("x", "y", "z"), values, number, 7, frozenset({"b"}))


def told(found: TelemetryFrame) -> list[object]:
    plain = [getattr(found, each.name) for each in fields(found) if each.name != "values"]
    return [*plain, found.values.shape, found.values.tobytes()]


@given(NUMBERS, NUMBERS, st.integers(1, 3), st.integers(1, 3))
def test_the_next_frame_of_a_node(first: int, second: int, ticks: int, later_ticks: int) -> None:
    decoder = FrameDecoder()
    decoder.decode(encode(frame(first, 0, ticks)), SUBJECT)
    data = encode(frame(second, 1, later_ticks))
    assert told(decoder.decode(data, SUBJECT)) == told(decode(data, SUBJECT))


@given(st.integers(0, 2000), st.integers(0, 255), st.booleans())
def test_bytes_that_differ_anywhere_are_read_or_refused_as_before(at: int, byte: int, cut: bool) -> None:
    decoder = FrameDecoder()
    decoder.decode(encode(frame(1)), SUBJECT)
    data = bytearray(encode(frame(2, 1)))
    at %= len(data)
    data[at] = byte
    changed = bytes(data[: at + 1] if cut else data)
    try:
        expected = told(decode(changed, SUBJECT))
    except MalformedMessageError:
        with pytest.raises(MalformedMessageError):
            decoder.decode(changed, SUBJECT)
    else:
        assert told(decoder.decode(changed, SUBJECT)) == expected


def test_infinite_readings_and_another_run_of_the_agent() -> None:
    decoder = FrameDecoder()
    decoder.decode(encode(frame(1)), SUBJECT)
    values = np.full((1, 2, 3), np.inf, np.float32)
    assert np.isnan(decoder.decode(encode(replace(frame(2), values=values)), SUBJECT).values).all()
    assert decoder.decode(encode(replace(frame(0), epoch_us=8)), SUBJECT).epoch_us == 8


def test_a_frame_of_another_node_is_refused_under_a_subject_that_was_seen() -> None:
    decoder = FrameDecoder()
    decoder.decode(encode(frame(1)), SUBJECT)
    with pytest.raises(MalformedMessageError):
        decoder.decode(encode(replace(frame(2), node="m")), SUBJECT)
