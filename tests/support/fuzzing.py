"""Bytes that no reader expects, and what reading them may cost."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = "AUTOPILOT_FUZZ_EXAMPLES"


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """`examples` inputs, always the same; AUTOPILOT_FUZZ_EXAMPLES=50000 tries that many others."""
    asked = os.environ.get(EXAMPLES)
    return settings(
        max_examples=int(asked) if asked else examples,
        derandomize=not asked,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf")]),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.just("x" * 3000) | st.just("\0"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
LINES = st.one_of(
    st.text(max_size=40),
    NUMBERS.map(str),
    st.sampled_from(
        ["", "\0", "\n", " " * 3000, "9" * 5000, "x" * 3000, "ü" * 300, "1e999", "-0", "1_0", "0x10", "\x1b[2J"]
    ),
)


def near(data: bytes) -> st.SearchStrategy[bytes]:
    """What a file becomes that was cut off, half overwritten or turned over in places."""
    places = st.integers(0, max(0, len(data) - 1))

    def flip(at: list[int]) -> bytes:
        out = bytearray(data)
        for place in at:
            out[place % max(1, len(out))] ^= 1 << (place % 8)
        return bytes(out)

    def overwrite(how: tuple[int, bytes]) -> bytes:
        place, piece = how
        return data[:place] + piece + data[place + len(piece) :]

    return st.one_of(
        st.just(b""),
        st.binary(max_size=200),
        places.map(lambda at: data[:at]),
        st.lists(places, min_size=1, max_size=6).map(flip),
        st.tuples(places, st.binary(min_size=1, max_size=12)).map(overwrite),
        st.tuples(places, places).map(lambda ends: data[: min(ends)] + data[max(ends) :]),
        places.map(lambda at: data + data[at:]),
        st.just(data + b"\0" * 4096),
    )


def near_json(example: Any) -> st.SearchStrategy[Any]:
    """An example with one of its values, at any depth, replaced by something else."""
    if isinstance(example, dict) and example:
        return st.one_of(
            JSON,
            st.sampled_from(sorted(example)).flatmap(
                lambda key: near_json(example[key]).map(lambda value: example | {key: value})
            ),
            st.sampled_from(sorted(example)).map(lambda key: {k: v for k, v in example.items() if k != key}),
        )
    if isinstance(example, list) and example:
        return st.one_of(
            JSON,
            st.integers(0, len(example) - 1).flatmap(
                lambda at: near_json(example[at]).map(lambda value: [*example[:at], value, *example[at + 1 :]])
            ),
        )
    return JSON


@contextmanager
def at_most(seconds: float, mib: float | None = None) -> Iterator[None]:
    """Fails where the block takes longer, or more memory than that at once."""
    if mib is not None:
        tracemalloc.start()
    began = time.process_time()
    try:
        yield
        took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1] if mib is not None else 0
    finally:
        tracemalloc.stop()
    assert took < seconds, f"took {took:.2f} s"
    assert mib is None or peak < mib * 2**20, f"took {peak / 2**20:.0f} MiB"
