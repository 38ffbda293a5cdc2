"""Everything that NVML tells of the first GPU: each reading of the agent with its time, and every other getter once.

As a program of its own: a getter that ends the process costs this part of the check alone.
"""

from __future__ import annotations

import inspect
import json
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml

from accelerator_autopilot.telemetry.agent.adapters.nvml.readings import CALLS, FIELDS, number
from accelerator_autopilot.telemetry.agent.adapters.nvml.source import NvmlSource
from tests.gpu_check.nvml_recording import Recording

REPEATS = 30
FIELD_IDS = range(1, 300)
# They make handles or take memory of their own, or answer with the processes of others.
LEFT_OUT = {"nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetVgpuProcessUtilization"}


def times_us(call: Any) -> tuple[float, float]:
    """Median and worst time of a call."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        with suppress(pynvml.NVMLError):
            call()
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times), max(times)


def readings(handle: Any) -> list[dict[str, Any]]:
    """The agent's own readings: rate, value or error, microseconds."""
    found = []
    for rate, calls in CALLS.items():
        for name, call in calls.items():
            try:
                answer: Any = call(handle)
            except pynvml.NVMLError as error:
                answer = {"error": str(error)}
            median, worst = times_us(lambda call=call: call(handle))
            found.append(
                {"reading": name, "rate": rate, "answer": answer, "us": round(median, 1), "us_max": round(worst, 1)}
            )
    for rate, fields in FIELDS.items():
        if not fields:
            continue
        ids = [(f.field_id, f.scope) for f in fields]
        median, worst = times_us(lambda ids=ids: pynvml.nvmlDeviceGetFieldValues(handle, ids))
        answers = pynvml.nvmlDeviceGetFieldValues(handle, ids)
        values = {
            f.metric: number(a.valueType, a.value) * f.scale if a.nvmlReturn == 0 else f"error {a.nvmlReturn}"
            for f, a in zip(fields, answers, strict=True)
        }
        found.append(
            {
                "reading": f"{len(ids)} fields",
                "rate": rate,
                "answer": values,
                "us": round(median, 1),
                "us_max": round(worst, 1),
            }
        )
    return found


def field_times(handle: Any) -> dict[str, float]:
    """Each field by itself: which of them make a group slow."""
    return {
        f.metric: round(times_us(lambda f=f: pynvml.nvmlDeviceGetFieldValues(handle, [(f.field_id, f.scope)]))[0], 1)
        for fields in FIELDS.values()
        for f in fields
    }


def source_times(seconds: float) -> dict[str, Any]:
    """What the source costs as the agent uses it, without the recording: discovery, and samples at 10 Hz."""
    began = time.perf_counter()
    source = NvmlSource()
    started = time.perf_counter()
    device = source.discover()[0].device
    found_at, sample_ms, cpu = time.perf_counter(), [], time.process_time()
    for _ in range(int(seconds * 10)):
        at = time.perf_counter()
        source.sample()
        sample_ms.append((time.perf_counter() - at) * 1e3)
        time.sleep(0.1)
    cpu = time.process_time() - cpu
    at = time.perf_counter()
    source.discover()
    again = time.perf_counter() - at
    gpm = source._devices[device].gpm
    found = {
        "init_ms": (started - began) * 1e3, "discover_ms": (found_at - started) * 1e3, "again_ms": again * 1e3,
        "sample_ms_p50": statistics.median(sample_ms), "sample_ms_max": max(sample_ms),
        "sample_cpu_ms": cpu / len(sample_ms) * 1e3,
        "gpm_us": times_us(lambda: gpm.read(time.monotonic()))[0] if gpm else None,
    }  # fmt: skip
    source.close()
    return found


def every_getter(handle: Any) -> None:
    """Ask every getter that takes a handle alone, and every field: the recording keeps what they say."""
    for name in sorted(dir(pynvml)):
        if name in LEFT_OUT or not name.startswith(("nvmlDeviceGet", "nvmlSystemGet", "nvmlDeviceIs")):
            continue
        call = getattr(pynvml, name)
        try:
            needed = [p for p in inspect.signature(inspect.unwrap(call)).parameters.values() if p.default is p.empty]
        except (TypeError, ValueError):
            continue
        wanted = 1 if name.startswith("nvmlDevice") else 0
        if len(needed) == wanted:
            with suppress(Exception):
                call(*([handle] if wanted else []))
    for field_id in FIELD_IDS:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceGetFieldValues(handle, [field_id])
    for block in range(0, len(FIELD_IDS), 20):
        with suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceGetFieldValues(handle, list(FIELD_IDS[block : block + 20]))


def main() -> None:
    """Write the recording and print what was measured as JSON."""
    recording_file = Path(sys.argv[1])
    alone = source_times(5.0)
    recording = Recording()
    originals = {n: getattr(pynvml, n) for n in dir(pynvml) if n.startswith("nvml")}
    recording.install()
    for name, original in originals.items():
        wrapped = getattr(pynvml, name)
        if wrapped is not original:
            wrapped.__wrapped__ = original
    source = NvmlSource()
    devices = source.discover()
    sample_ms = []
    for _ in range(20):
        began = time.perf_counter()
        samples = source.sample()
        sample_ms.append((time.perf_counter() - began) * 1e3)
        time.sleep(0.1)
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    told, field_us = readings(handle), field_times(handle)
    events = int(pynvml.nvmlDeviceGetSupportedEventTypes(handle))
    source.poll_events()
    recording.save(recording_file, pynvml=getattr(pynvml, "__version__", ""))
    every_getter(handle)
    recording.save(recording_file, pynvml=getattr(pynvml, "__version__", ""))
    times = {n: round(statistics.median(t), 1) for n, t in recording.times_us.items()}
    print(json.dumps({
        "devices": [d.model_dump(mode="json", exclude={"processes", "serial"}) for d in devices],
        "sample": samples.get(devices[0].device, {}), "sample_ms_p50": statistics.median(sample_ms),
        "sample_ms_max": max(sample_ms), "readings": told, "supported_events": events,
        "listening": source._events is not None and not source._events.failed,
        "unsupported": sorted(source._gate.unsupported.get(devices[0].device, ())),
        "errors": {f"{n} {c}": k for (n, c), k in source.errors.items()},
        "call_us_p50": times, "source": alone, "field_us": field_us,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
