"""A node of simulated devices under load, minute by minute or faster, and faults to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Columns = dict[str, Array]

MAX_W, IDLE_W, MEMORY_BYTES = 400.0, 60.0, 80 * 2**30
CLOCK_MHZ, IDLE_CLOCK_MHZ = 1980.0, 345.0
SLOWDOWN_C = 87.0
HEAT_S = 45.0


@dataclass(frozen=True)
class Load:
    """Utilisation in percent and memory in bytes of each device, [ticks, devices]."""

    util_pct: Array
    memory_bytes: Array


def made_up_load(rng: np.random.Generator, ticks: int, devices: int, period_s: float) -> Load:
    """Jobs of minutes to hours with pauses between them, busier by day."""
    util, memory = np.zeros((ticks, devices)), np.full((ticks, devices), 0.01 * MEMORY_BYTES)
    for device in range(devices):
        at = 0
        while at < ticks:
            day = 0.5 + 0.5 * np.sin(2 * np.pi * at * period_s / 86_400)
            if rng.random() < 0.35 + 0.4 * day:
                length = max(2, int(rng.lognormal(np.log(3600 / period_s), 1.0)))
                level = rng.uniform(20, 100)
                shape = np.clip(level + rng.normal(0, rng.uniform(1, 12), length), 0, 100)
                util[at : at + length, device] = shape[: ticks - at]
                memory[at : at + length, device] = rng.uniform(0.1, 0.9) * MEMORY_BYTES
            else:
                length = max(2, int(rng.lognormal(np.log(1800 / period_s), 1.0)))
            at += length
    return Load(util, memory)


@dataclass
class Node:
    """State of a node's simulated devices; a fault changes `resistance`, or the columns that are told."""

    rng: np.random.Generator
    load: Load
    period_s: float
    resistance: Callable[[int], Array] | None = None
    clock_share: Callable[[int], Array] | None = None
    columns: Columns = field(default_factory=dict)

    def run(self) -> Columns:
        """Every metric, [ticks, devices]."""
        ticks, devices = self.load.util_pct.shape
        rng = self.rng
        started = (self.load.util_pct > 5) & (np.vstack([np.zeros((1, devices)), self.load.util_pct[:-1]]) <= 5)
        intensity = np.ones(devices)
        own = 0.135 * rng.uniform(0.92, 1.08, devices)
        temp = np.full(devices, 35.0)
        names = ("gpu_util_pct", "mem_util_pct", "power_w", "temp_c", "temp_mem_c", "fan_pct", "clock_sm_mhz")
        out = {name: np.zeros((ticks, devices)) for name in names}
        energy = 1 - np.exp(-self.period_s / HEAT_S)
        for t in range(ticks):
            intensity = np.where(started[t], rng.uniform(0.45, 1.0, devices), intensity)
            util = self.load.util_pct[t] / 100
            share = self.clock_share(t) if self.clock_share else np.ones(devices)
            power = IDLE_W + (MAX_W - IDLE_W) * util * intensity * share**1.5
            power = np.maximum(power * (1 + rng.normal(0, 0.02, devices)), 30)
            room = 27 + 2 * np.sin(2 * np.pi * t * self.period_s / 86_400) + rng.normal(0, 0.2)
            factor = self.resistance(t) if self.resistance else np.ones(devices)
            temp += energy * (room + own * factor * power - temp)
            hot = np.clip(1 - (temp - SLOWDOWN_C) / 20, 0.3, 1)
            busy_mhz = CLOCK_MHZ * (1 - 0.1 * intensity * util) * share * hot
            out["gpu_util_pct"][t] = np.round(100 * util)
            out["mem_util_pct"][t] = np.round(55 * util * intensity)
            out["power_w"][t] = np.round(power, 1)
            out["temp_c"][t] = np.round(temp + rng.normal(0, 0.3, devices))
            out["temp_mem_c"][t] = np.round(temp + 8 * util + rng.normal(0, 0.3, devices))
            out["fan_pct"][t] = np.round(np.clip(30 + (temp - 45) * 1.5, 30, 100))
            out["clock_sm_mhz"][t] = np.round(np.where(util > 0.01, busy_mhz, IDLE_CLOCK_MHZ) / 15) * 15
        still = np.zeros((ticks, devices))
        out["memory_used_bytes"] = self.load.memory_bytes.copy()
        out["memory_total_bytes"] = np.full((ticks, devices), float(MEMORY_BYTES))
        out["clock_mem_mhz"] = np.full((ticks, devices), 2619.0)
        out["power_cap_w"] = np.full((ticks, devices), MAX_W)
        out["temp_slowdown_c"] = np.full((ticks, devices), SLOWDOWN_C)
        out["clock_event_reasons"] = np.where(out["gpu_util_pct"] > 0, 0.0, 1.0)
        out["clock_event_reasons"] += np.where(out["temp_c"] >= SLOWDOWN_C, 0x40, 0)
        out["ecc_sbe"] = np.cumsum(rng.random((ticks, devices)) < 0.2 * self.period_s / 86_400, 0).astype(float)
        out["pcie_replays"] = np.cumsum(rng.random((ticks, devices)) < 1.0 * self.period_s / 86_400, 0).astype(float)
        for name in ("ecc_dbe", "row_remap_pending", "row_remap_failure", "recovery_action", "nvlink_replay_errors"):
            out[name] = still.copy()
        out["pcie_width"], out["pcie_gen"] = still + 16, np.where(out["gpu_util_pct"] > 0, 5.0, 1.0)
        out["nvlink_active"] = still + 18
        self.columns = out
        return out


@dataclass(frozen=True)
class Fault:
    """A kind of fault at a strength: what it does to a node's devices, and to what they tell."""

    kind: str
    strength: str
    resistance: float = 1.0
    clock_share: float = 1.0
    tells: Callable[[Columns, int, int, int, float, np.random.Generator], None] | None = None

    @property
    def name(self) -> str:
        """Kind and strength."""
        return f"{self.kind} {self.strength}"


def with_fault(
    rng: np.random.Generator, load: Load, period_s: float, fault: Fault, device: int, first: int, last: int
) -> Columns:
    """A node of which one device has a fault from tick `first` to `last`."""

    def factor(value: float) -> Callable[[int], Array]:
        def at(t: int) -> Array:
            factors = np.ones(load.util_pct.shape[1])
            factors[device] = value if first <= t <= last else 1.0
            return factors

        return at

    node = Node(rng, load, period_s, factor(fault.resistance), factor(fault.clock_share))
    columns = node.run()
    if fault.tells:
        fault.tells(columns, first, last, device, period_s, rng)
    return columns


def _add(name: str, per_minute: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        growth = np.cumsum(rng.poisson(per_minute * period_s / 60, last - first + 1))
        c[name][first : last + 1, device] += growth
        c[name][last + 1 :, device] += growth[-1]

    return tell


def _step(name: str, by: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        c[name][first:, device] += by

    return tell


def _set(name: str, value: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        c[name][first : last + 1, device] = value

    return tell


def _scale(name: str, by: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        c[name][first : last + 1, device] *= by

    return tell


def _freeze(*names: str) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        for name in names or tuple(c):
            c[name][first : last + 1, device] = c[name][first, device]

    return tell


def _lose(share: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        gone = rng.random(last - first + 1) < share
        for name in c:
            c[name][first : last + 1, device][gone] = np.nan

    return tell


def _leak(share_an_hour: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        hours = np.arange(last - first + 1) * period_s / 3600
        used = c["memory_used_bytes"]
        used[first : last + 1, device] = np.minimum(0.35 + share_an_hour * hours, 0.99) * MEMORY_BYTES

    return tell


def _hidden(power_share: float) -> Callable[[Columns, int, int, int, float, np.random.Generator], None]:
    def tell(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
        there = slice(first, last + 1)
        c["gpu_util_pct"][there, device] = c["mem_util_pct"][there, device] = 0
        c["power_w"][there, device] = MAX_W * power_share * (1 + rng.normal(0, 0.02, last - first + 1))
        c["clock_sm_mhz"][there, device] = CLOCK_MHZ
        c["temp_c"][there, device] = np.round(27 + 0.135 * MAX_W * power_share)

    return tell


def _hung(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
    there = slice(first, last + 1)
    c["gpu_util_pct"][there, device] = 100
    c["mem_util_pct"][there, device] = 0
    c["power_w"][there, device] = np.round(IDLE_W * 1.2 * (1 + rng.normal(0, 0.02, last - first + 1)), 1)
    c["temp_c"][there, device] = np.round(27 + 0.135 * IDLE_W * 1.2)


def _brake(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
    c["clock_event_reasons"][first : last + 1, device] = 0x88


def _fan(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
    c["fan_pct"][first : last + 1, device] = 0


def _gone(c: Columns, first: int, last: int, device: int, period_s: float, rng: np.random.Generator) -> None:
    for name in c:
        c[name][first : last + 1, device] = np.inf


def all_faults() -> Iterator[Fault]:
    """Every kind at every strength; infinity stands for rows that never come."""
    yield Fault("fan failure", "x1.6", resistance=1.6, tells=_fan)
    yield Fault("fan failure", "x2.2", resistance=2.2, tells=_fan)
    for by in (1.3, 1.6, 2.0):
        yield Fault("cooling loss", f"x{by}", resistance=by)
    yield Fault("pump failure", "x3", resistance=3.0)
    for by in (0.3, 0.5, 0.65):
        yield Fault("stuck clock", f"x{by}", clock_share=by)
    yield Fault("power brake", "on", clock_share=0.5, tells=_brake)
    yield Fault("uncorrected ECC", "1", tells=_step("ecc_dbe", 1))
    for rate in (1.0, 10.0):
        yield Fault("corrected ECC storm", f"{rate:g}/min", tells=_add("ecc_sbe", rate))
    yield Fault("row remap pending", "on", tells=_set("row_remap_pending", 1))
    yield Fault("row remap failed", "on", tells=_set("row_remap_failure", 1))
    yield Fault("recovery action", "reset", tells=_set("recovery_action", 1))
    for rate in (5.0, 30.0):
        yield Fault("PCIe replays", f"{rate:g}/min", tells=_add("pcie_replays", rate))
    yield Fault("PCIe width", "x8", tells=_set("pcie_width", 8))
    yield Fault("PCIe generation", "3", tells=_set("pcie_gen", 3))
    for rate in (2.0, 20.0):
        yield Fault("NVLink errors", f"{rate:g}/min", tells=_add("nvlink_replay_errors", rate))
    yield Fault("NVLink down", "1 of 18", tells=_set("nvlink_active", 17))
    yield Fault("frozen sensors", "all", tells=_freeze())
    yield Fault("stuck temperature", "on", tells=_freeze("temp_c"))
    yield Fault("stuck power", "on", tells=_freeze("power_w"))
    yield Fault("impossible value", "-40 °C", tells=_set("temp_c", -40))
    yield Fault("impossible value", "5 kW", tells=_set("power_w", 5000))
    yield Fault("device lost", "rows stop", tells=_gone)
    for share in (0.7, 1.0):
        yield Fault("samples fail", f"{share:.0%}", tells=_lose(share))
    for rate in (0.06, 0.15):
        yield Fault("memory leak", f"{rate:.0%}/h", tells=_leak(rate))
    for share in (0.5, 0.8):
        yield Fault("hidden load", f"{share:.0%} power", tells=_hidden(share))
    yield Fault("hung kernel", "on", tells=_hung)
    for by in (0.6, 1.4):
        yield Fault("power sensor off", f"x{by}", tells=_scale("power_w", by))
    yield Fault("memory heat", "105 °C", tells=_set("temp_mem_c", 105))
