"""Detect unknown faults in a fleet: learned scores of every device, calibrated to the allowed false alarms."""

from __future__ import annotations

import numpy as np

from accelerator_autopilot.anomaly.domain.last_values import Bools, Doubles, Slots
from accelerator_autopilot.anomaly.domain.learned.false_alarm_calibration import FalseAlarmCalibration
from accelerator_autopilot.anomaly.domain.learned.input_channels import NAMES
from accelerator_autopilot.anomaly.domain.learned.physics_model import EFFECTS, TARGETS, PhysicsModel
from accelerator_autopilot.anomaly.domain.learned.score_fusion import ScoreFusion
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Floats, Saved, quietly
from accelerator_autopilot.anomaly.domain.learned.slot_tensors import Slots as SlotArrays

# Deviations are averaged over this many learning rows: a fault persists, a phase of a job passes.
PERSISTENCE_ROWS = 20
RELEARN_S = 86_400.0
# Prior mean and deviation of the six-hour maximum score.
ODD_EXPECTED, CAUSES_EXPECTED = (10.0, 5.0), (2.2, 0.45)


class CalibratedDetector:
    """Scores rows of channels; learns from devices without alerts."""

    def __init__(self, false_alarms_per_week: float) -> None:
        self.detector = ScoreFusion(len(NAMES), surprise=False)
        self.causes = PhysicsModel()
        # All scores share the allowed false alarms.
        self.tail = FalseAlarmCalibration(
            false_alarms_per_week, *zip(ODD_EXPECTED, *[CAUSES_EXPECTED] * len(EFFECTS), strict=True)
        )
        self._level = SlotArrays({"level": (), "metrics": (len(NAMES),), "alerted_s": ()})

    @property
    def bytes_per_slot(self) -> int:
        """Memory of one device."""
        return sum(part.bytes_per_slot for part in self._parts.values()) + self.detector.bytes_per_slot

    @property
    def _parts(self) -> dict[str, SlotArrays]:
        return {"causes": self.causes.slots, "level": self._level, "tail": self.tail.slots}

    def grow(self, slots: int) -> None:
        """Grow to at least this many slots."""
        self.detector.grow(slots)
        for part in self._parts.values():
            part.grow(slots)

    def forget(self, slots: Slots) -> None:
        """Relearn these slots: with a new driver, a device behaves like a new one."""
        self.detector.forget(slots)
        for part in self._parts.values():
            part.forget(slots)

    @quietly
    def step(self, slots: Slots, channels: Floats, period_s: Doubles, alerted: Bools) -> tuple[Floats, Floats, Floats]:
        """Return the alarm ratio [rows], and the score and usual value of each metric [rows, NAMES]."""
        period = period_s.astype(np.float32)
        s = self._level.read(slots)
        s["alerted_s"] = np.where(alerted, s["alerted_s"] + period, np.float32(0))
        # What stays anomalous for a day is the new normal.
        learn = ~alerted | (s["alerted_s"] > RELEARN_S)
        scores = self.detector.step(slots, channels, learn)
        rate = 2 / (PERSISTENCE_ROWS + 1)
        s["level"] = s["level"] + rate * (scores.anomaly_score - s["level"])
        s["metrics"] = s["metrics"] + rate * (scores.by_metric - s["metrics"])
        self._level.write(slots, s)
        off, guess = self.causes.step(slots, channels, learn)
        share = self.tail.step(slots, np.concatenate([s["level"][:, None], off], 1), period, learn)
        by_metric, expected = s["metrics"], scores.expected.copy()
        by_metric[:, TARGETS] = np.maximum(by_metric[:, TARGETS], off)
        expected[:, TARGETS] = np.where(off > 0, guess, expected[:, TARGETS])
        return share.max(1), by_metric, expected

    def snapshot(self) -> dict[str, Floats]:
        """Return all state, to be saved."""
        saved = {f"detector.{key}": array for key, array in self.detector.snapshot().items()}
        for name, part in self._parts.items():
            saved |= {f"{name}.{key}": array for key, array in part.snapshot().items()}
        blocks = np.array([self.tail.all_blocks], np.float32)
        return (
            saved
            | {"everyone.blocks": blocks, "everyone.mean": self.tail.all_mean}
            | {"everyone.variance": self.tail.all_variance}
        )

    def load(self, saved: Saved) -> None:
        """Restore a snapshot. Raises InvalidInputError for one of another version, and then changes nothing."""

        def part(name: str) -> dict[str, Floats]:
            return {k.removeprefix(f"{name}."): v for k, v in saved.items() if k.startswith(f"{name}.")}

        for name, own in self._parts.items():
            own.check(part(name))
        self.detector.load(part("detector"))
        for name, own in self._parts.items():
            own.load(part(name))
        everyone = part("everyone")
        self.tail.all_blocks = float(everyone["blocks"].item())
        self.tail.all_mean, self.tail.all_variance = (
            everyone[name].astype(np.float32) for name in ("mean", "variance")
        )


def top_metrics(
    scores: Floats, values: Floats, expected: Floats, most: int = 3
) -> list[tuple[str, float, float, float]]:
    """Return the metrics that contribute most to one row: name, score, value, usual value."""
    own = [i for i in np.argsort(-np.nan_to_num(scores)) if not NAMES[i].startswith("peer_")]
    order = own[:most]
    return [
        (NAMES[i], float(scores[i]), float(values[i]), float(expected[i])) for i in order if not np.isnan(values[i])
    ]
