"""Build frames and events from samples: one frame per node and tick, transitions as events. Pure."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from accelerator_autopilot.contracts.frame_packing import pack_frame
from accelerator_autopilot.contracts.metric_catalogue import METRICS, NAMES, clock_event_names
from accelerator_autopilot.telemetry.agent.domain.energy import CounterBase
from accelerator_autopilot.telemetry.samples import Sample, SourceEvent

LOST_AFTER_TICKS = 3
NO_READING: Sample = {"read_errors": 1.0}  # of a device whose source fails: its state is unknown
_MAX_VALUE = 1e30  # no reading is larger, and float32 holds anything smaller
_HELD = {metric.name for metric in METRICS if metric.held}
_REBASED = {metric.name: metric.rebase_at for metric in METRICS if metric.rebase_at is not None}
_THROTTLES = {"sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"}


@dataclass
class FrameAssembler:
    """Builds the frames of one node, numbered so that readers can detect gaps."""

    node: str
    period_s: float
    epoch_us: int
    sequence: int = 0
    _held: dict[str, Sample] = field(default_factory=dict)
    _bases: dict[tuple[str, str], CounterBase] = field(default_factory=dict)

    def assemble(
        self, start_us: int, samples: Mapping[str, Sample], simulated: frozenset[str] = frozenset()
    ) -> bytes | None:
        """Return the frame of one tick of all devices, with the metrics that any has; None without any sample."""
        if not samples:
            return None
        samples = {device: self._bounded(device, self._holding(device, s)) for device, s in samples.items()}
        present = {metric for sample in samples.values() for metric in sample}
        metrics = tuple(name for name in NAMES if name in present)
        if not metrics:
            return None
        devices = tuple(sorted(samples))
        block = array("f", (samples[device].get(metric, math.nan) for device in devices for metric in metrics))
        if sys.byteorder == "big":
            block.byteswap()
        self.sequence += 1
        return pack_frame(
            node=self.node,
            start_us=start_us,
            period_s=self.period_s,
            devices=devices,
            metrics=metrics,
            ticks=1,
            block=block.tobytes(),
            sequence=self.sequence,
            epoch_us=self.epoch_us,
            simulated=simulated & set(devices),
        )

    def _holding(self, device: str, sample: Sample) -> Sample:
        """Carry forward settings that were not read this time; measurements are never made up."""
        held = self._held.setdefault(device, {})
        held |= {name: value for name, value in sample.items() if name in _HELD}
        return held | sample

    def _bounded(self, device: str, sample: Sample) -> Sample:
        """Restart counters that float32 could not resolve, as after a reset."""
        bounded = dict(sample)
        for metric, limit in _REBASED.items():
            if metric in sample:
                base = self._bases.setdefault((device, metric), CounterBase(limit))
                bounded[metric] = base.apply(sample[metric])
        return bounded


@dataclass
class NodeFrames:
    """Frames of every node that one agent reports, numbered separately for each node."""

    period_s: float
    epoch_us: int
    _assemblers: dict[str, FrameAssembler] = field(default_factory=dict)

    def assemble(
        self, start_us: int, samples: Mapping[str, Sample], simulated: frozenset[str], node_of: Callable[[str], str]
    ) -> list[tuple[str, bytes, str]]:
        """Return one frame per node that has samples: the node, the frame, and its message id."""
        nodes: dict[str, dict[str, Sample]] = {}
        for device, sample in samples.items():
            nodes.setdefault(node_of(device), {})[device] = sample
        frames = []
        for node, its in nodes.items():
            assembler = self._assemblers.setdefault(node, FrameAssembler(node, self.period_s, self.epoch_us))
            frame = assembler.assemble(start_us, its, simulated)
            if frame is not None:
                frames.append((node, frame, f"{node}:{self.epoch_us}:{assembler.sequence}"))
        return frames


@dataclass
class TransitionWatch:
    """Turns changes between samples into events: lost, appeared, throttling on and off."""

    cause: Callable[..., str] = lambda _, *, first: "agent_started" if first else "returned"
    _missed: dict[str, int] = field(default_factory=dict)
    _throttles: dict[str, frozenset[str]] = field(default_factory=dict)

    def observe(self, samples: Mapping[str, Sample], unread: Collection[str] = ()) -> list[SourceEvent]:
        """Compare a tick with earlier ones; devices in `unread` have an unknown state in this one."""
        events: list[SourceEvent] = []
        for device in samples:
            missed = self._missed.get(device)
            if missed is None or missed >= LOST_AFTER_TICKS:
                events.append(SourceEvent(device, "appeared", cause=self.cause(device, first=missed is None)))
            self._missed[device] = 0
        for device in self._missed.keys() - samples.keys() - set(unread):
            self._missed[device] += 1
            if self._missed[device] == LOST_AFTER_TICKS:
                events.append(SourceEvent(device, "lost", message=f"no sample for {LOST_AFTER_TICKS} ticks"))
        for device, sample in samples.items():
            events += self._throttling(device, int(sample.get("clock_event_reasons", 0)))
        return events

    def _throttling(self, device: str, mask: int) -> list[SourceEvent]:
        now = frozenset(clock_event_names(mask)) & _THROTTLES
        before = self._throttles.get(device, frozenset())
        self._throttles[device] = now
        started = [SourceEvent(device, "throttle_on", message=name) for name in sorted(now - before)]
        return started + [SourceEvent(device, "throttle_off", message=name) for name in sorted(before - now)]


def clean(sample: Mapping[str, float]) -> Sample:
    """Remove invalid readings: infinities, NaN and absurdly large numbers."""
    return {name: value for name, value in sample.items() if -_MAX_VALUE < value < _MAX_VALUE}
