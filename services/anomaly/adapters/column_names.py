"""Column names of third-party telemetry: those of nvidia-smi and DCGM, and units in names and in cells.

nvidia-smi's names are those of `nvidia-smi --help-query-gpu`; DCGM's are in the catalogue.
"""

from __future__ import annotations

import re

import polars as pl

from accelerator_autopilot.anomaly.adapters.table_files import ABSENT
from accelerator_autopilot.anomaly.adapters.timestamps import each_once
from accelerator_autopilot.contracts.metric_catalogue import BY_NAME, METRICS, Metric

TIMES = (
    "t_s", "timestamp", "time", "ts", "datetime", "date", "at", "_time", "@timestamp", "epoch", "unixtime", "unix_time",
    "time_s", "time_ms", "time_us", "time_ns", "ts_s", "ts_ms", "ts_us", "ts_ns", "timestamp_s", "timestamp_ms",
    "timestamp_us", "timestamp_ns", "epoch_s", "epoch_ms", "epoch_ns", "event_time", "sample_time", "sampled_at",
    "recorded_at", "collected_at", "created_at", "collection_time", "__index_level_0__",
)  # fmt: skip
DEVICES = (
    "device", "uuid", "gpu_uuid", "gpu", "index", "gpu_id", "device_id", "gpu_index", "pci.bus_id", "gpu_bus_id",
    "device_uuid", "gpuid", "accelerator", "card", "minor_number", "gpu_number",
)  # fmt: skip
NODES = ("node", "hostname", "host", "nodename", "instance", "node_name", "server", "machine")

NVIDIA_SMI = {
    "utilization.gpu": "gpu_util_pct",
    "utilization.memory": "mem_util_pct",
    "memory.used": "memory_used_bytes",
    "memory.total": "memory_total_bytes",
    "power.draw": "power_w",
    "power.draw.average": "power_w",
    "power.draw.instant": "power_instant_w",
    "module.power.draw.average": "power_module_w",
    "power.limit": "power_cap_w",
    "enforced.power.limit": "power_enforced_w",
    "temperature.gpu": "temp_c",
    "temperature.memory": "temp_mem_c",
    "temperature.gpu.tlimit": "temp_margin_c",
    "fan.speed": "fan_pct",
    "clocks.current.sm": "clock_sm_mhz",
    "clocks.sm": "clock_sm_mhz",
    "clocks.current.memory": "clock_mem_mhz",
    "clocks.mem": "clock_mem_mhz",
    "clocks_throttle_reasons.active": "clock_event_reasons",
    "clocks_event_reasons.active": "clock_event_reasons",
    "pstate": "pstate",
    "ecc.errors.corrected.volatile.total": "ecc_sbe",
    "ecc.errors.uncorrected.volatile.total": "ecc_dbe",
    "ecc.errors.corrected.aggregate.total": "ecc_sbe_total",
    "ecc.errors.uncorrected.aggregate.total": "ecc_dbe_total",
    "retired_pages.single_bit_ecc.count": "retired_pages_sbe",
    "retired_pages.sbe": "retired_pages_sbe",
    "retired_pages.double_bit.count": "retired_pages_dbe",
    "retired_pages.dbe": "retired_pages_dbe",
    "retired_pages.pending": "retired_pages_pending",
    "remapped_rows.correctable": "remapped_rows_corrected",
    "remapped_rows.uncorrectable": "remapped_rows",
    "remapped_rows.pending": "row_remap_pending",
    "remapped_rows.failure": "row_remap_failure",
    "pcie.link.gen.current": "pcie_gen",
    "pcie.link.gen.gpucurrent": "pcie_gen",
    "pcie.link.width.current": "pcie_width",
}
OLD_DCGM = {
    "dcgm_fi_dev_clock_throttle_reasons": "clock_event_reasons",
    "dcgm_fi_dev_row_remap_pending": "row_remap_pending",
}
# What people call them when they name columns themselves, without dots, dashes and spaces.
_USUAL_NAMES = {
    "gpu_util_pct": "utilizationgpu gpuutilization gpuutil gpuutilpct utilization util gpuusage gpuload gpupercent",
    "mem_util_pct": "utilizationmemory memoryutilization memutil memoryutil memutilpct",
    "memory_used_bytes": "memoryused memused gpumemoryused usedmemory fbused memoryusedmib memusedmib memoryusedmb",
    "memory_total_bytes": "memorytotal memtotal gpumemorytotal totalmemory fbtotal memorytotalmib memorytotalmb",
    "power_w": "powerdraw power powerusage gpupower powerwatts powerw powerdraww watts gpupowerw boardpower",
    "power_cap_w": "powerlimit powercap enforcedpowerlimit powerlimitw powercapw",
    "temp_c": "temperaturegpu gputemp gputemperature temperature temp tempc gputempc temperaturec coretemp",
    "temp_mem_c": "temperaturememory memorytemp memtemp memorytemperature memtempc hbmtemp",
    "fan_pct": "fanspeed fan fanpct fanspeedpct",
    "clock_sm_mhz": "clockscurrentsm clockssm smclock clocksm smclockmhz gpuclock coreclock graphicsclock",
    "clock_mem_mhz": "clockscurrentmemory clocksmem memclock memoryclock clockmem memclockmhz memoryclockmhz",
}
_USUAL = {name: metric for metric, names in _USUAL_NAMES.items() for name in names.split()}
_DCGM = {m.dcgm.lower(): m for m in METRICS if m.dcgm}
# Factors to our unit, by the unit of the metric.
_FACTORS: dict[str, dict[str, float]] = {
    "B": {
        "b": 1, "bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 1e3, "mb": 1e6, "gb": 1e9,
        "tb": 1e12,
    },
    "W": {"w": 1, "watt": 1, "watts": 1, "mw": 1e-3, "kw": 1e3},
    "J": {"j": 1, "mj": 1e-3, "kj": 1e3, "wh": 3600, "kwh": 3.6e6},
    "MHz": {"mhz": 1, "ghz": 1e3, "khz": 1e-3, "hz": 1e-6},
    "°C": {"c": 1, "°c": 1, "degc": 1, "celsius": 1},
    "%": {"%": 1, "percent": 1, "pct": 1},
    "s": {"s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9},
    "rpm": {"rpm": 1},
}  # fmt: skip
_THOUSANDS = r"^[-+]?\d{1,3}(,\d{3})+(\.\d+)?\s*[A-Za-zµ°%]*$"
_CELL = r"^([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµ°%]*)$"
_WORDS = {
    "yes": 1.0, "no": 0.0, "enabled": 1.0, "disabled": 0.0, "active": 1.0, "not active": 0.0, "true": 1.0, "false": 0.0,
    "pending": 1.0, "none pending": 0.0,
}  # fmt: skip
_HEADER = re.compile(r"^(?P<name>.*?)\s*[\[(](?P<unit>[^\])]*)[\])]$")
# DCGM's blanks start here (dcgm_structs.h: fp64 2^47, int64 2^63 - 16), and no metric of ours comes near.
BLANK = 2.0**47
MAX_MIB = 2.0**24
_INT32_BLANKS = (2147483632.0, 2147483633.0, 2147483634.0, 2147483635.0)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.removeprefix("nvidia_smi_"))


def metric_of(header: str) -> tuple[Metric, float] | None:
    """Return the metric that a column holds, with the factor from its unit to ours; None when it is unknown."""
    matched = _HEADER.match(header.strip())
    name, unit = (matched["name"], matched["unit"]) if matched else (header, "")
    name = name.strip().lower()
    if name in BY_NAME:
        metric, factor = BY_NAME[name], 1.0
    elif name in _DCGM:
        metric = _DCGM[name]
        factor = 1.0 / metric.dcgm_scale
    elif (known := NVIDIA_SMI.get(name) or OLD_DCGM.get(name) or _USUAL.get(_bare(name))) is not None:
        metric = BY_NAME[known]
        # With nounits, nvidia-smi omits the memory unit from the cells, but the values keep it.
        factor = 2.0**20 if metric.unit == "B" else 1.0
    else:
        return None
    return metric, _FACTORS.get(metric.unit, {}).get(unit.strip().lower(), factor)


def numbers(column: pl.Series, metric: Metric, factor: float) -> pl.Series:
    """Parse cells to the metric's unit as Float64; null where there is no number.

    A unit in a cell takes precedence over `factor`.
    """
    if column.dtype.is_nested():
        return pl.Series(column.name, [None] * len(column), dtype=pl.Float64)
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        values = column.cast(pl.Float64)
        values = values * _of_size(values, metric, factor)
    else:
        values = each_once(column, lambda cells: _from_text(cells, metric, factor))
    blank = (values.abs() >= BLANK) | values.is_nan()
    if metric.unit != "B":
        blank |= values.is_in(_INT32_BLANKS)
    return pl.select(pl.when(blank.fill_null(value=True)).then(None).otherwise(values)).to_series()


def _from_text(column: pl.Series, metric: Metric, factor: float) -> pl.Series:
    cells = column.str.strip_chars()
    # Thousands separators: 1,980 MHz.
    cells = pl.select(
        pl.when(cells.str.contains(_THOUSANDS)).then(cells.str.replace_all(",", "", literal=True)).otherwise(cells)
    ).to_series()
    if metric.name == "pstate":
        cells = cells.str.replace(r"^[Pp](\d+)$", "$1")
    number = cells.str.extract(_CELL, 1).cast(pl.Float64, strict=False)
    factor = _of_size(number, metric, factor)
    units = cells.str.extract(_CELL, 2).str.to_lowercase()
    factors = {unit: float(scale) for unit, scale in ({"": factor} | _FACTORS.get(metric.unit, {})).items()}
    scaled = number * units.replace_strict(factors, default=None, return_dtype=pl.Float64)
    hexadecimal = cells.str.extract(r"^0[xX]([0-9a-fA-F]{1,16})$", 1).str.to_integer(base=16, strict=False)
    states = cells.str.to_lowercase().replace_strict(_WORDS, default=None, return_dtype=pl.Float64)
    return scaled.fill_null(hexadecimal.cast(pl.Float64)).fill_null(states)


def _of_size(values: pl.Series, metric: Metric, factor: float) -> float:
    """Convert memory without a unit: MiB, as in nvidia-smi, unless no device could have so much; then bytes."""
    if metric.unit != "B":
        return factor
    usual = values.filter((values < BLANK) & ~values.is_in(_INT32_BLANKS)).median()
    in_bytes = isinstance(usual, float) and usual >= MAX_MIB
    return 1.0 if in_bytes and factor == 2.0**20 else factor


def unreadable(column: pl.Series, values: pl.Series) -> int:
    """Return non-empty cells that contain no number."""
    if column.dtype.is_numeric():
        return 0
    if column.dtype.is_nested():
        return len(column) - column.null_count()
    cells = column.filter(values.is_null()).cast(pl.String)
    said = ~cells.str.strip_chars().str.to_lowercase().is_in(ABSENT)
    return int(said.fill_null(value=False).sum())
