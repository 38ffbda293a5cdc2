"""Other people's telemetry: what replay makes of their dialects, names, units and times."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from accelerator_autopilot.anomaly.adapters.column_names import BLANK, metric_of
from accelerator_autopilot.anomaly.adapters.telemetry_tables import Table, read_table
from accelerator_autopilot.anomaly.domain.metric_columns import COLUMN
from accelerator_autopilot.contracts.errors import InvalidInputError

T0 = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC).timestamp()
ROWS = "t_s,device,power_w,temp_c\n1700000000,a,223.5,62\n1700000000,b,265.25,69\n1700000001,a,206,61\n"


def read(tmp_path: Path, content: str | bytes, name: str = "f.csv") -> Table:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path)


def column(table: Table, metric: str) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in table.values[:, COLUMN[metric]]]


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.replace(",", ";").replace(".", ",").encode(),
        lambda text: text.replace(",", ", ").encode(),
        lambda text: ("# written by a tool\n\n" + text).encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: bz2.compress(text.encode()),
        lambda text: lzma.compress(text.encode()),
    ],
)
def test_the_same_rows_in_any_dress_are_the_same(tmp_path: Path, disguise: Callable[[str], bytes]) -> None:
    table = read(tmp_path, disguise(ROWS))
    assert table.at_s.tolist() == [T0, T0, T0 + 1]
    assert table.devices == ["a", "b", "a"]
    assert column(table, "power_w") == [223.5, 265.25, 206.0]
    assert column(table, "temp_c") == [62.0, 69.0, 61.0]
    assert table.remarks == []


def test_binary_forms_are_told_by_their_bytes_not_their_name(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "timestamp": [datetime.fromtimestamp(T0 + n, UTC) for n in range(2)],
            "device": pl.Series(["a", "a"], dtype=pl.Categorical),
            "temp_c": [62, 61],
        }
    )
    frame.write_parquet(tmp_path / "one.pq")
    frame.write_ipc(tmp_path / "two.csv")
    frame.with_columns(pl.col("timestamp").dt.to_string()).write_ndjson(tmp_path / "three")
    for name in ("one.pq", "two.csv", "three"):
        table = read_table(tmp_path / name)
        assert table.at_s.tolist() == [T0, T0 + 1], name
        assert column(table, "temp_c") == [62.0, 61.0], name


@pytest.mark.parametrize(
    "moment",
    [
        "1700000000.0", "1700000000000", "1700000000000000", "1700000000000000000", "2023-11-14T22:13:20Z",
        "2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00", "2023-11-14T17:13:20-0500", "2023/11/14 22:13:20.000",
        "2023-11-14T22:13:20+00:00",
    ],
)  # fmt: skip
def test_times_in_any_form(tmp_path: Path, moment: str) -> None:
    table = read(tmp_path, f"time,device,temp_c\n{moment},a,50\n")
    assert table.at_s.tolist() == [T0]


def test_nvidia_smi_as_it_writes(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "timestamp, index, uuid, name, pstate, utilization.gpu [%], power.draw [W], clocks.current.sm [MHz], "
        "memory.used [MiB], temperature.memory, clocks_throttle_reasons.active, remapped_rows.pending, what.is.this\n"
        "2023/11/14 22:13:20.000, 0, GPU-1, X, P2, 66 %, 223.81 W, 1410 MHz, 100 MiB, [N/A], 0x00000004, No, 1\n"
        "2023/11/14 22:13:21.500, 0, GPU-1, X, P0, [Unknown Error], ERR!, 1.41 GHz, 1 GiB, 44, 0x8, Yes, 1\n",
    )
    assert table.devices == ["GPU-1", "GPU-1"]
    assert table.at_s.tolist() == [T0, T0 + 1.5]
    assert column(table, "pstate") == [2.0, 0.0]
    assert column(table, "gpu_util_pct") == [66.0, None]
    assert column(table, "power_w") == [pytest.approx(223.81), None]
    assert column(table, "clock_sm_mhz") == [1410.0, 1410.0]
    assert column(table, "memory_used_bytes") == [100 * 2**20, 2**30]
    assert column(table, "temp_mem_c") == [None, 44.0]
    assert column(table, "clock_event_reasons") == [4.0, 8.0]
    assert column(table, "row_remap_pending") == [0.0, 1.0]
    assert table.remarks == ["unknown columns: what.is.this"]


def test_cells_that_repeat_themselves_are_read_as_those_that_do_not(tmp_path: Path) -> None:
    cells = [("66 %", 66.0), ("[N/A]", None), ("3 %", 3.0), ("", None)]
    lines = [f"2023/11/14 22:13:20.{i:03d}, GPU-{i % 2}, {cells[i % 4][0]}, {i}.5 W" for i in range(1000)]
    # Beyond what is looked at first there is a time of another form, and a cell that comes but once.
    lines += ["2023-11-14T22:13:30+00:00, GPU-0, 77 %, 5 W", "2023/11/14 22:13:31.5, GPU-1, 2 %, ERR!"]
    header = "# smi\n\ntimestamp, uuid, utilization.gpu [%], power.draw [W]\n"
    table = read(tmp_path, header + "\n".join(lines) + "\n")
    assert table.names == ["GPU-0", "GPU-1"]
    assert table.devices[-4:] == ["GPU-0", "GPU-1", "GPU-0", "GPU-1"]
    assert table.at_s[-2:].tolist() == [T0 + 10, T0 + 11.5]
    assert table.at_s[1] == pytest.approx(T0 + 0.001, abs=1e-6)
    assert column(table, "gpu_util_pct") == [cells[i % 4][1] for i in range(1000)] + [77.0, 2.0]
    assert column(table, "power_w") == [i + 0.5 for i in range(1000)] + [5.0, None]
    assert table.remarks == []


def test_a_number_of_the_first_rows_that_is_text_further_down_costs_only_its_cell(tmp_path: Path) -> None:
    lines = [f"{i},{'a' if i % 2 else 'b'},{i % 50}" for i in range(1500)]
    lines[1400] = "1400,b,hot"
    table = read(tmp_path, "t_s,device,temp_c\n" + "\n".join(lines) + "\n")
    assert column(table, "temp_c")[1399:1402] == [49.0, None, 1.0]
    assert table.remarks == ["column 'temp_c': 1 of 1500 cells are not numbers"]


def test_rows_in_any_order_are_put_in_order(tmp_path: Path) -> None:
    rows = ["2,b,20", "1,b,10", "1,a,11", "2,a,21", "1,b,12"]
    table = read(tmp_path, "t_s,device,temp_c\n" + "\n".join(rows) + "\n")
    assert list(zip(table.at_s.tolist(), table.devices, column(table, "temp_c"), strict=True)) == [
        (1.0, "a", 11.0), (1.0, "b", 12.0), (2.0, "a", 21.0), (2.0, "b", 20.0),
    ]  # fmt: skip


def test_nounits_leaves_the_unit_of_memory_to_the_header_or_to_mib(tmp_path: Path) -> None:
    for header in ("memory.used [MiB]", "memory.used"):
        table = read(tmp_path, f"timestamp,index,{header}\n2023/11/14 22:13:20,0,5\n")
        assert (column(table, "memory_used_bytes"), table.devices) == ([5 * 2**20], ["0"])


def test_fields_of_dcgm_in_their_units_and_without_their_blanks(tmp_path: Path) -> None:
    blanks = [9223372036854775794, 140737488355328, 2147483632, "nan"]
    lines = [f"{i},GPU-1,{b},{b},0.5" for i, b in enumerate([300, *blanks])]
    table = read(
        tmp_path,
        "ts,UUID,DCGM_FI_DEV_POWER_USAGE,DCGM_FI_DEV_FB_USED,DCGM_FI_PROF_SM_ACTIVE\n" + "\n".join(lines) + "\n",
    )
    assert column(table, "power_w") == [300.0, None, None, None, None]
    assert column(table, "sm_util_pct") == [50.0] * 5
    used = column(table, "memory_used_bytes")
    assert used[0] == 300 * 2**20
    assert all(u is None or u < BLANK for u in used)


def test_several_nodes_do_not_share_their_devices(tmp_path: Path) -> None:
    table = read(tmp_path, "t_s,Hostname,gpu,temp_c\n1,n1,0,50\n1,n2,0,60\n2,n1,0,51\n")
    assert table.devices == ["n1/0", "n2/0", "n1/0"]


def test_one_device_needs_no_name(tmp_path: Path) -> None:
    assert read(tmp_path, "t_s,temp_c\n1,50\n2,51\n").devices == ["gpu-0", "gpu-0"]
    with pytest.raises(InvalidInputError, match="no device column"):
        read(tmp_path, "t_s,temp_c\n1,50\n1,51\n")


def test_cells_that_are_no_number_are_counted_by_column(tmp_path: Path) -> None:
    table = read(tmp_path, "t_s,device,temp_c,power_w\n1,a,hot,1\n2,a,51,[N/A]\nyesterday,a,50,2\n")
    assert table.remarks == [
        "1 rows without time or device were left out",
        "column 'temp_c': 1 of 3 cells are not numbers",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n", "the file is empty"),
        ("t_s,device,temp_c\n", "no row has a readable time"),
        ("t_s,device,temp_c\nsoon,a,5\n", "no row has a readable time"),
        ("2023/11/14 22:13:20.072, 0, GPU-1, X, 66 %, 223.81 W\n", "no column names"),
        ("t_s,device,whatever\n1,a,5\n", "unknown columns: whatever"),
        ("t_s,device,temp_c\n1,a,hot\n", "'temp_c': 1 of 1 cells"),
        (b"PAR1 but not really", "cannot be read"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (b"\x00\xff\x00\x01" * 50, "no time column|cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value).strip()


def test_units_in_headers_count_before_those_that_a_tool_leaves_out() -> None:
    for header, factor in (("memory.used [GiB]", 2**30), ("power_w", 1), ("power.draw [mW]", 1e-3), ("Power.Draw", 1)):
        known = metric_of(header)
        assert known is not None
        assert known[1] == factor, header
    assert metric_of("altitude") is None


def test_parquet_of_any_kind(tmp_path: Path) -> None:
    moments = [datetime.fromtimestamp(T0 + n, UTC) for n in range(4)]
    frame = pl.DataFrame(
        {
            "sampled": pl.Series(moments).dt.convert_time_zone("Asia/Tokyo"),
            "where": pl.struct(
                pl.Series("hostname", ["n1"] * 4), pl.Series("gpu", [0, 0, 0, 0], dtype=pl.Int8), eager=True
            ),
            "readings": pl.struct(
                pl.Series("power_draw", [1, 2, None, 4], dtype=pl.Decimal(10, 2)),
                pl.Series("temp_c", [50, 51, 52, 53], dtype=pl.UInt16),
                eager=True,
            ),
            "fan": pl.Series(["87 %", "[N/A]", "88 %", None], dtype=pl.Categorical),
            "smClock": pl.Series(["1,980 MHz", "1.98 GHz", "300 MHz", "n/a"]),
            "mem_used": [b"12.5 GiB", b"1 GiB", b"2 GiB", b"3 GiB"],
            "samples": [[1], [2], [3], [4]],
        }
    )
    frame.write_parquet(tmp_path / "f", row_group_size=2, compression="zstd")
    table = read_table(tmp_path / "f")
    assert table.at_s.tolist() == [T0 + n for n in range(4)]
    assert set(table.devices) == {"0"}
    assert column(table, "power_w") == [1.0, 2.0, None, 4.0]
    assert column(table, "temp_c") == [50.0, 51.0, 52.0, 53.0]
    assert column(table, "fan_pct") == [87.0, None, 88.0, None]
    assert column(table, "clock_sm_mhz") == [1980.0, 1980.0, 300.0, None]
    assert column(table, "memory_used_bytes") == [12.5 * 2**30, 2**30, 2**31, 3 * 2**30]
    assert table.remarks == ["unknown columns: samples"]


def test_memory_without_a_unit_is_mib_unless_no_device_could_have_as_much(tmp_path: Path) -> None:
    for told, expected in ((30_000, 30_000 * 2**20), (30_000_000_000, 30_000_000_000)):
        table = read(tmp_path, f"time_ms,gpu,mem_used\n1700000000000,0,{told}\n")
        assert (column(table, "memory_used_bytes"), table.at_s.tolist()) == ([pytest.approx(expected)], [T0])


def test_repeated_cells_are_read_once_and_right(tmp_path: Path) -> None:
    rows = "".join(f"2023-11-14 22:13:{20 + n // 8:02},{n % 8},{60 + n % 3} %\n" for n in range(320))
    table = read(tmp_path, "timestamp,gpu,gpu_util\n" + rows)
    assert table.at_s.tolist() == [T0 + n // 8 for n in range(320)]
    expected = sorted((n // 8, str(n % 8), 60.0 + n % 3) for n in range(320))
    found = zip((table.at_s - T0).tolist(), table.devices, column(table, "gpu_util_pct"), strict=True)
    assert [(int(t), d, v) for t, d, v in found] == expected
