"""A long past is looked at in blocks: the same alerts, at the same times, as moment by moment."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelerator_autopilot.anomaly.adapters.telemetry_tables import Table, read_table
from accelerator_autopilot.anomaly.domain.condition_state import Conditions
from accelerator_autopilot.anomaly.domain.decaying_sums import fading
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.replay import DetectorReplay

DEVICES = 3
FAULTS = (
    "hot", "frozen", "stuck", "errors", "silent", "gaps", "leak", "flapping", "blind", "late metrics", "low clock",
    "leaks again",
)  # fmt: skip


def table(  # noqa: C901, PLR0912  one case a fault
    tmp_path: Path, fault: str, rows: int = 700, period_s: float = 1.0
) -> Table:
    """Devices of which the first has a fault in the middle third."""
    rng = np.random.default_rng(FAULTS.index(fault))
    count = rows * DEVICES
    moment, device = np.divmod(np.arange(count), DEVICES)
    busy = np.where((moment // 60) % 2 == 0, 90.0, 0.0)
    frame = {
        "t_s": 1.7e9 + moment * period_s,
        "device": np.array([f"gpu-{d}" for d in device]),
        "gpu_util_pct": np.clip(busy + rng.normal(0, 3, count), 0, 100),
        "power_w": 60 + 2.2 * busy + rng.normal(0, 4, count),
        "temp_c": 45 + 0.25 * busy + rng.normal(0, 1, count),
        "clock_sm_mhz": np.where(busy > 0, 1700.0, 300.0) + rng.normal(0, 5, count),
        "memory_used_bytes": 2e10 + rng.integers(0, 100_000, count).astype(float),
        "memory_total_bytes": np.full(count, 8e10),
        "pcie_replays": np.zeros(count),
        "ecc_dbe": np.zeros(count),
        "remapped_rows": np.zeros(count),
        "clock_event_reasons": np.zeros(count),
        "row_remap_pending": np.zeros(count),
    }
    here = (device == 0) & (moment > rows // 3) & (moment < 2 * rows // 3)
    keep = np.ones(count, bool)
    if fault == "hot":
        frame["temp_c"][here] = 95
    elif fault == "frozen":
        for name in ("gpu_util_pct", "power_w", "temp_c", "clock_sm_mhz", "memory_used_bytes"):
            frame[name][here] = 77.0
    elif fault == "stuck":
        frame["temp_c"][here] = 61.0
        frame["power_w"][here] = 60 + 100 * ((moment[here] // 50) % 3)
    elif fault == "errors":
        frame["pcie_replays"] = np.where(device == 0, np.maximum(0, moment - rows // 3), 0).astype(float)
        frame["ecc_dbe"][here] = 2
        frame["remapped_rows"] = np.where(device == 1, moment // 200, 0).astype(float)
        frame["row_remap_pending"][here] = 1
    elif fault == "silent":
        keep = ~here
    elif fault == "gaps":
        keep = rng.random(count) > 0.2
    elif fault == "leak":
        frame["memory_used_bytes"] = 3e10 + 4e10 * moment / rows
    elif fault == "flapping":
        frame["clock_event_reasons"][here & ((moment // 25) % 2 == 0)] = 0x8
    elif fault == "blind":
        for name in ("gpu_util_pct", "power_w", "temp_c"):
            frame[name][here & (rng.random(count) < 0.8)] = np.nan
    elif fault == "late metrics":
        frame["power_w"][moment < rows // 4] = np.nan
        frame["gpu_util_pct"][(device == 1) & (moment < rows // 2)] = np.nan
    elif fault == "low clock":
        frame["clock_sm_mhz"][here & (busy > 0)] = 900
    elif fault == "leaks again":
        frame["memory_used_bytes"] = 2e10 + 5e10 * ((moment + 40 * device) % 300) / 300
    path = tmp_path / "f.parquet"
    pl.DataFrame(frame).filter(pl.Series(keep)).write_parquet(path)
    return read_table(path)


def told(past: Table, *, block_rows: int | None, learn: bool) -> list[tuple[object, ...]]:
    return _run(past, block_rows, learn=learn)[0]


def _run(past: Table, block_rows: int | None, *, learn: bool) -> tuple[list[tuple[object, ...]], DetectionEngine]:
    known = DetectionEngine()._all_conditions()
    only = None if learn else frozenset(kind.name for kind, _ in known) - {"unusual"}
    watch = DetectionEngine(only=only)
    again = DetectorReplay(watch, past.node, past.period_s)
    if block_rows is None:
        for moment in past.ticks():
            again.take(moment)
    else:
        for block in past.blocks(watch.slots(past.node, past.names), block_rows):
            again.take_block(block)
    return [(t.alert.device, t.alert.kind, t.opened_s, t.resolved_s, t.alert.count) for t in again.alerts], watch


@pytest.mark.parametrize("fault", FAULTS)
def test_blocks_and_moments_tell_the_same(tmp_path: Path, fault: str) -> None:
    past = table(tmp_path, fault, period_s=60.0 if fault.startswith("leak") else 1.0)
    expected = told(past, block_rows=None, learn=False)
    assert (fault in {"gaps", "late metrics"}) == (not expected), expected
    for block_rows in (100, 100_000):
        assert sorted(told(past, block_rows=block_rows, learn=False)) == sorted(expected)


def test_what_is_learnt_is_the_same_too(tmp_path: Path) -> None:
    past = table(tmp_path, "gaps", rows=400, period_s=2.0)
    expected, one_by_one = _run(past, None, learn=True)
    found, many = _run(past, 200, learn=True)
    assert sorted(found) == sorted(expected)
    for name, learnt in one_by_one.snapshot().items():
        np.testing.assert_allclose(many.snapshot()[name], learnt, rtol=1e-3, atol=1e-4, err_msg=name)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.1, 90)), min_size=2, max_size=80))
@settings(deadline=None)
def test_conditions_of_many_rows_change_as_row_by_row(rows: list[tuple[bool, bool, float]]) -> None:
    slots, at_s = np.array([0]), np.cumsum([step for _, _, step in rows])
    firing, known = (np.array([row[i] for row in rows]) for i in range(2))
    single, many = Conditions(5.0, 30.0), Conditions(5.0, 30.0)
    single.grow(1)
    many.grow(1)
    changes = [single.update(slots, at_s[i : i + 1], firing[i : i + 1], known[i : i + 1]) for i in range(len(rows))]
    half = len(rows) // 2
    for first, last in ((0, half), (half, len(rows))):
        if last == first:
            continue
        here = slice(first, last)
        found = many.update_many(slots, at_s[here, None], firing[here, None], known[here, None])
        for name in ("opened", "going_on", "ended"):
            expected = [i for i in range(last - first) if len(getattr(changes[first + i], name))]
            assert getattr(found, name).tolist() == expected, name


@pytest.mark.parametrize("slowest", [0.99, 0.6, 0.0])
def test_fading_sums_of_many_rows_are_those_of_one_after_the_other(slowest: float) -> None:
    rng = np.random.default_rng(1)
    keep, add, y = rng.uniform(slowest, 1, (300, 4)), rng.normal(size=(300, 4)), rng.normal(size=4)
    found = fading(y, keep, add)
    for t in range(300):
        y = y * keep[t] + add[t]
        np.testing.assert_allclose(found[t], y, rtol=1e-9, atol=1e-9)


def test_a_table_keeps_no_more_than_it_has(tmp_path: Path) -> None:
    text = io.StringIO()
    text.write("t_s,device,power_w\n")
    for t in range(1000):
        text.write(f"{t},a,100\n{t + 0.01},b,100\n")
    path = tmp_path / "f.csv"
    path.write_text(text.getvalue())
    past = read_table(path)
    assert past.packed.shape == (2000, 1)
    # Devices that are read one after the other are of one moment.
    assert len(past.starts) == 1000
    blocks = list(past.blocks(np.arange(2), 64))
    assert sum(len(b.at_s) for b in blocks) == 2000
    assert all(len(b.moment_s) == 32 for b in blocks[:-1])
