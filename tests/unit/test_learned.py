"""What is learnt: scores, calibration, snapshots, and reruns of files."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from accelerator_autopilot.anomaly.adapters import model_snapshot
from accelerator_autopilot.anomaly.adapters.telemetry_tables import read_table
from accelerator_autopilot.anomaly.domain.detection_engine import DetectionEngine
from accelerator_autopilot.anomaly.domain.device_slots import DeviceSlots
from accelerator_autopilot.anomaly.domain.learned.alarm_throttle import AlarmThrottle
from accelerator_autopilot.anomaly.domain.learned.false_alarm_calibration import FalseAlarmCalibration
from accelerator_autopilot.anomaly.domain.learned.score_fusion import ScoreFusion
from accelerator_autopilot.anomaly.domain.learned.snapshot import Snapshot
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMNS
from accelerator_autopilot.anomaly.domain.replay import rerun
from accelerator_autopilot.contracts.errors import InvalidInputError
from tests.benchmarks.faults import ticks_of
from tests.support.drill import Fault, made_up_load, with_fault

ALL = np.ones(1, bool)
ONE = np.array([0])


def anomaly_score(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Scores of a single device."""
    detector = ScoreFusion(rows.shape[1])
    detector.grow(1)
    return np.array([detector.step(ONE, row[None], ALL).anomaly_score.item() for row in rows.astype(np.float32)])


class TestLearnedDetector:
    def test_a_spike_stands_out_of_noise(self) -> None:
        rows = np.random.default_rng(0).normal(50, 2, (600, 1))
        rows[500] = 90
        scores = anomaly_score(rows)
        assert scores[500] > 3 * scores[100:500].max()

    def test_a_broken_relation_stands_out_while_each_metric_stays_usual(self) -> None:
        rng = np.random.default_rng(0)
        load = rng.uniform(0, 1, 1200)
        rows = np.stack([load, 2 * load, 1 - load], 1) + rng.normal(0, 0.01, (1200, 3))
        rows[1000:1010, 1] = 2 * (1 - load[1000:1010])
        scores = anomaly_score(rows)
        assert scores[1000:1012].max() > 2 * scores[600:1000].max()

    def test_gaps_constants_and_jumps_of_unit_give_finite_scores(self) -> None:
        rows = np.full((400, 2), 7.0)
        rows[50:60] = np.nan
        rows[200:] *= 1e9
        rows[300, 0] = -1e30
        scores = anomaly_score(rows)
        assert np.isfinite(scores).all()
        assert scores[:200].max() < 0.1
        assert scores[200] > 1

    def test_what_is_not_to_be_learnt_leaves_no_trace(self) -> None:
        detectors = [ScoreFusion(1), ScoreFusion(1)]
        rng = np.random.default_rng(0)
        slot = ONE
        for detector in detectors:
            detector.grow(1)
        calm = rng.normal(0, 1, (300, 1)).astype(np.float32)
        for row in calm:
            for detector in detectors:
                detector.step(slot, row[None], ALL)
        for _ in range(200):
            detectors[0].step(slot, np.array([[50.0]], np.float32), ~ALL)
        scores = [d._residuals.step(slot, np.array([[50.0]], np.float32), ALL).long for d in detectors]
        assert np.allclose(scores[0], scores[1])

    def test_one_device_scores_the_same_alone_and_among_others(self) -> None:
        rows = np.random.default_rng(0).normal(0, 1, (150, 3, 2)).astype(np.float32)
        together = ScoreFusion(2)
        together.grow(3)
        alone = ScoreFusion(2)
        alone.grow(1)
        for row in rows:
            many = together.step(np.arange(3), row, np.ones(3, bool)).anomaly_score[1]
            single = alone.step(ONE, row[1:2], ALL).anomaly_score[0]
        assert float(many) == pytest.approx(float(single), rel=1e-4)

    def test_alarms_are_sparing(self) -> None:
        alarms = AlarmThrottle()
        alarms.grow(1)
        slot = ONE
        fired = [alarms.step(slot, np.array([5.0], np.float32)).item() for _ in range(90)]
        assert sum(f > 0 for f in fired) == 1
        assert alarms.step(slot, np.array([9.0], np.float32)).item() == 9.0


class TestTail:
    def test_a_stricter_rate_asks_for_a_higher_score(self) -> None:
        shares = []
        for rate in (1.0, 0.01):
            tail = FalseAlarmCalibration(rate, [2.0], [0.5])
            tail.slots.grow(1)
            score, minute = np.array([[5.0]], np.float32), np.array([60.0], np.float32)
            shares.append(tail.step(ONE, score, minute, ALL).item())
        assert shares[0] > shares[1] > 0

    def test_the_rate_of_false_alarms_is_about_what_was_asked_for(self) -> None:
        devices, weeks, rate = 200, 6, 0.5
        tail = FalseAlarmCalibration(rate, [3.0], [1.0])
        tail.slots.grow(devices)
        slots, learn = np.arange(devices), np.ones(devices, bool)
        period = np.full(devices, 3600.0, np.float32)
        scores = np.random.default_rng(0).gumbel(1.0, 0.3, (weeks * 168, devices, 1)).astype(np.float32)
        alarms = sum(int((tail.step(slots, score, period, learn) > 1).sum()) for score in scores)
        assert alarms / (devices * weeks) < 2 * rate
        assert alarms > 0


class TestWatching:
    def test_a_device_that_runs_hotter_for_its_power_is_found_and_others_are_not(self) -> None:
        period_s, first = 60.0, 1440
        rng = np.random.default_rng(3)
        load = made_up_load(rng, first + 60, 8, period_s)
        columns = with_fault(rng, load, period_s, Fault("cooling loss", "x1.6", resistance=1.6), 1, first, first + 59)
        told = rerun(DetectionEngine(), "n1", ticks_of(columns), period_s)
        assert {t.alert.device for t in told} == {"gpu-1"}
        assert told[0].opened_s >= first * period_s
        assert any("temp" in e.metric for t in told for e in t.alert.evidence)

    def test_it_goes_on_from_a_snapshot_and_begins_anew_without_one(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(5)
        columns = with_fault(rng, made_up_load(rng, 300, 2, 60.0), 60.0, Fault("none", ""), 0, 0, 0)
        moments = list(ticks_of(columns))
        watch = DetectionEngine()
        rerun(watch, "n1", moments, 60.0)
        path = tmp_path / "anomaly" / "learned.npz"
        model_snapshot.save(path, Snapshot(watch.roster.snapshot(), watch.snapshot()))
        saved = model_snapshot.load(path)
        assert saved is not None
        again = DetectionEngine(roster=DeviceSlots.restore(saved.roster))
        again.load(saved.arrays)
        for name, array in watch.snapshot().items():
            assert np.array_equal(again.snapshot()[name][: len(array)], array)
        path.write_bytes(path.read_bytes()[:1000])
        assert model_snapshot.load(path) is None
        assert model_snapshot.load(tmp_path / "none.npz") is None
        with pytest.raises(InvalidInputError, match=r"snapshot\."):
            DetectionEngine().load({"detector.residuals.count": np.zeros((3, 1))})

    def test_what_an_earlier_version_learnt_with_torch_is_read_without_it(self, tmp_path: Path) -> None:
        watch = DetectionEngine()
        one = np.array([1.0])
        watch.rows(watch.slots("n1", ["a"]), one, np.full((1, len(COLUMNS)), 5.0, np.float32), one, one)
        arrays = watch.snapshot()
        roster = [list(row) for row in watch.roster.snapshot()]
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save({"version": 1, "roster": roster, "tensors": tensors}, tmp_path / "learned.pt")
        path = tmp_path / "learned.npz"
        saved = model_snapshot.load(path)
        assert saved is not None
        assert saved.roster == watch.roster.snapshot()
        assert saved.arrays.keys() == arrays.keys()
        assert all(np.array_equal(saved.arrays[name], array) for name, array in arrays.items())
        model_snapshot.save(path, saved)
        assert [file.name for file in tmp_path.iterdir()] == ["learned.npz"]

    def test_a_new_driver_is_learnt_anew(self) -> None:
        watch = DetectionEngine()
        slots = watch.slots("n1", ["a"])
        one = np.array([1.0])
        watch.rows(slots, one, np.full((1, len(COLUMNS)), 5.0, np.float32), np.array([1.0]), one)
        watch.forget("n1", "a")
        assert np.isnan(watch.last_known(0)).all()


class TestReplay:
    def rows(self) -> pl.DataFrame:
        seconds = np.repeat(np.arange(0, 600, 10), 2)
        temp = np.where((seconds >= 300) & (np.arange(len(seconds)) % 2 == 1), 95.0, 60.0)
        device = np.array(["a", "b"] * 60)
        return pl.DataFrame({"t_s": seconds, "device": device, "temp_c": temp, "note": ["x"] * 120})

    @pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
    def test_any_form_of_file_gives_the_alert_with_its_time(self, tmp_path: Path, form: str) -> None:
        path, out = tmp_path / f"rows.{form}", tmp_path / "alerts.jsonl"
        if form == "parquet":
            self.rows().write_parquet(path)
        elif form == "csv":
            self.rows().write_csv(path)
        else:
            path.write_bytes(gzip.compress(self.rows().write_csv().encode()))
        command = [
            sys.executable,
            "-m",
            "accelerator_autopilot.anomaly.replay",
            "--input",
            str(path),
            "--out",
            str(out),
        ]
        subprocess.run([*command, "--plot", str(tmp_path / "p.png")], check=True, timeout=60)
        (told,) = [json.loads(line) for line in out.read_text().splitlines()]
        assert (told["device"], told["kind"], told["severity"]) == ("b", "thermal", "critical")
        assert 300 <= told["opened_s"] <= 330
        assert told["resolved_s"] is None
        assert (tmp_path / "p.png").stat().st_size > 1000

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("device,temp_c\na,1\n", "no time column"),
            ("t_s,device,nothing\n1,a,2\n", "no values of a known metric"),
            ("", "cannot be read"),
        ],
    )
    def test_a_file_that_does_not_fit_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "bad.csv"
        path.write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            read_table(path)

    def test_rubbish_in_cells_doubles_and_disorder_are_borne(self, tmp_path: Path) -> None:
        path = tmp_path / "odd.csv"
        path.write_text("t_s,device,temp_c\n20,a,50\n10,a,x\n10,a,inf\n,a,5\nnan,a,6\n20,b,\n20,a,51\n")
        moments = list(read_table(path).ticks())
        assert [(m.at_s, m.devices) for m in moments] == [(10.0, ("a",)), (20.0, ("a", "b"))]
