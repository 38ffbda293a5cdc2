"""Public forms of alert rules for dcgm-exporter, on what an agent gives under its names: each fires, and none before.

The forms are those met in public rule files, with names and limits of our own.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from accelerator_autopilot.telemetry.device_metrics import prometheus_exposition
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.device_metrics.prometheus_exposition import DeviceCollector
from tests.support.builders import device

STEP_S, XID_AT, STEPS = 15, 20, 40
RULES = {
    "Hot": "DCGM_FI_DEV_GPU_TEMP > 85",
    "MemoryHot": "DCGM_FI_DEV_MEMORY_TEMP > 95",
    "MemoryNearlyFull": "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE) > 0.95",
    "MemoryNearlyFullOfTotal": "DCGM_FI_DEV_FB_USED / DCGM_FI_DEV_FB_TOTAL > 0.9",
    "MemoryShare": "DCGM_FI_DEV_FB_USED_PERCENT > 0.9",
    "XidRises": "increase(DCGM_FI_DEV_XID_ERRORS[5m]) > 0",
    "XidRisesBriefly": "increase(DCGM_FI_DEV_XID_ERRORS[1m]) > 0",
    "XidDelta": "delta(DCGM_FI_DEV_XID_ERRORS[2m]) != 0",
    "XidThere": "DCGM_FI_DEV_XID_ERRORS > 0",
    "XidChanges": "changes(DCGM_FI_DEV_XID_ERRORS[5m]) > 0",
    "XidOfList": "DCGM_FI_DEV_XID_ERRORS == 79 or DCGM_FI_DEV_XID_ERRORS == 48",
    "XidCount": 'sum by (Hostname, gpu, xid) (DCGM_EXP_XID_ERRORS_COUNT{xid=~"48|63|64|74|79|92|94|95"}) > 0',
    "XidCountLately": 'max by (UUID, xid) (max_over_time(DCGM_EXP_XID_ERRORS_COUNT{xid!=""}[5m])) > 0',
    "EccUncorrected": "increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL[5m]) > 0",
    "RowRemapFailure": "DCGM_FI_DEV_ROW_REMAP_FAILURE > 0",
    "RowRemapPending": "DCGM_FI_DEV_ROW_REMAP_PENDING > 0",
    "RemappedRows": "increase(DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS[5m]) > 0",
    "PcieReplays": "rate(DCGM_FI_DEV_PCIE_REPLAY_COUNTER[5m]) > 0",
    "ThrottledOld": "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS > 1",
    "Throttled": "DCGM_FI_DEV_CLOCKS_EVENT_REASONS > 1",
    "ThrottledForPower": "rate(DCGM_FI_DEV_POWER_VIOLATION[5m]) > 0",
    "ThrottledForHeat": "rate(DCGM_FI_DEV_THERMAL_VIOLATION[5m]) > 0",
    "Fewer": "count(DCGM_FI_DEV_GPU_TEMP) by (Hostname) < 2",
    "PowerHigh": "DCGM_FI_DEV_POWER_USAGE > 0.95 * DCGM_FI_DEV_POWER_MGMT_LIMIT",
    "ClockLow": "DCGM_FI_DEV_SM_CLOCK < on (Hostname, gpu) (max_over_time(DCGM_FI_DEV_SM_CLOCK[1h]) * 0.8)",
    "Energy": "rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION[5m]) / 1000 > 500",
    "NvlinkBusy": "rate(DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL[5m]) > 0",
    "NvlinkErrors": "increase(DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL[5m]) > 0",
    "EngineIdle": "DCGM_FI_PROF_GR_ENGINE_ACTIVE < 0.2",
    "TensorIdle": "avg_over_time(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE[1m]) < 0.01",
    "Absent": 'absent(DCGM_FI_DEV_GPU_UTIL{gpu="1"})',
}
WELL = {
    "temp_c": 60.0, "temp_mem_c": 70.0, "memory_used_bytes": 2.0**30, "memory_free_bytes": 79 * 2.0**30,
    "memory_total_bytes": 80 * 2.0**30, "ecc_dbe": 0.0, "row_remap_failure": 0.0, "row_remap_pending": 0.0,
    "remapped_rows": 0.0, "pcie_replays": 0.0, "clock_event_reasons": 1.0, "throttle_power_s": 1.0,
    "throttle_thermal_s": 1.0, "power_w": 300.0, "power_cap_w": 700.0, "clock_sm_mhz": 1980.0, "energy_j": 1e6,
    "nvlink_tx_bytes": 1e9, "nvlink_rx_bytes": 1e9, "nvlink_crc_flit_errors": 0.0, "engine_util_pct": 90.0,
    "tensor_util_pct": 50.0, "gpu_util_pct": 95.0,
}  # fmt: skip
ILL = {
    "temp_c": 90.0, "temp_mem_c": 100.0, "memory_used_bytes": 78 * 2.0**30, "memory_free_bytes": 2 * 2.0**30,
    "ecc_dbe": 1.0, "row_remap_failure": 1.0, "row_remap_pending": 1.0, "remapped_rows": 1.0, "pcie_replays": 500.0,
    "clock_event_reasons": 72.0, "throttle_power_s": 9.0, "throttle_thermal_s": 9.0, "power_w": 690.0,
    "clock_sm_mhz": 345.0, "nvlink_tx_bytes": 9e9, "nvlink_crc_flit_errors": 3.0, "engine_util_pct": 1.0,
    "tensor_util_pct": 0.0,
}  # fmt: skip
Series = dict[tuple[str, tuple[tuple[str, str], ...]], list[float | None]]


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> Series:
    """Two cards scraped for ten minutes; one falls ill in the middle, and the other leaves."""
    now = [0.0]
    monkeypatch.setattr(prometheus_exposition, "time", SimpleNamespace(monotonic=lambda: now[0]))
    latest = LatestSamples(10)
    registry = CollectorRegistry()
    registry.register(DeviceCollector(latest, dcgm_names=True))
    found: Series = defaultdict(lambda: [None] * STEPS)
    infos = [device(device=f"GPU-{n}", index=n, vendor="nvidia", simulated=False, model="NVIDIA H100") for n in (0, 1)]
    for step in range(STEPS):
        now[0] = step * STEP_S
        ill = step >= XID_AT
        for info in infos[: 1 if ill else 2]:
            sample = WELL | (ILL if ill else {})
            sample |= {"energy_j": 1e6 + now[0] * (700 if ill else 300)}
            latest.update("rack-1", info.device, sample, now[0], info)
        if step == XID_AT:
            latest.note_xid("rack-1", "GPU-0", 79)
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample_ in family.samples:
                if sample_.name.startswith("DCGM"):
                    found[sample_.name, tuple(sorted(sample_.labels.items()))][step] = sample_.value
    return found


def of(series: Series, name: str, **labels: str) -> list[list[float | None]]:
    return [values for (n, its), values in series.items() if n == name and labels.items() <= dict(its).items()]


def told(values: list[float | None]) -> str:
    """As promtool writes a series: one that is not told any more ends with a mark, as a scrape ends it."""
    before = [None, *values]
    marks = {True: "stale", False: "_"}
    return " ".join(
        f"{now:f}" if now is not None else marks[earlier is not None]
        for earlier, now in zip(before, values, strict=False)
    )


def test_an_xids_series_is_there_before_the_first_one(series: Series) -> None:
    [last] = of(series, "DCGM_FI_DEV_XID_ERRORS", gpu="0")
    assert (last[0], last[XID_AT - 1], last[XID_AT], last[-1]) == (0.0, 0.0, 79.0, 79.0)
    [none] = [v for v in of(series, "DCGM_EXP_XID_ERRORS_COUNT", gpu="0") if v[0] is not None]
    [counted] = of(series, "DCGM_EXP_XID_ERRORS_COUNT", gpu="0", xid="79")
    assert (none[0], none[XID_AT], counted[XID_AT]) == (0.0, None, 1.0)
    assert all("window_size_in_ms" in dict(its) for (n, its) in series if n == "DCGM_EXP_XID_ERRORS_COUNT")


def test_every_field_that_a_rule_names_is_given(series: Series) -> None:
    given = {name for name, _ in series}
    named = {word for rule in RULES.values() for word in re.findall(r"DCGM_\w+", rule)}
    assert named <= given


def test_promtool_says_that_public_rules_fire(series: Series, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool")
    rules = [{"alert": name, "expr": expr} for name, expr in RULES.items()]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "gpu", "rules": rules}]}))
    given = [
        {"series": f"{name}{{{','.join(f'{k}={json.dumps(text)}' for k, text in labels)}}}", "values": told(values)}
        for (name, labels), values in series.items()
    ]
    before, after = (XID_AT - 1) * STEP_S, (STEPS - 2) * STEP_S
    counts = [
        {
            "expr": f"clamp_max(count(count_over_time(ALERTS{{alertname={json.dumps(name)}}}[240s])) or vector(0), 1)",
            "eval_time": f"{at}s",
            "exp_samples": [{"labels": "{}", "value": want}],
        }
        for name in RULES
        for at, want in ((before, 0), (after, 1))
        if name != "NvlinkBusy" or want
    ]
    tests = [{"interval": f"{STEP_S}s", "input_series": given, "promql_expr_test": counts}]
    (tmp_path / "test.json").write_text(
        json.dumps({"rule_files": ["rules.json"], "evaluation_interval": f"{STEP_S}s", "tests": tests})
    )
    command = [promtool, "test", "rules", "test.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
