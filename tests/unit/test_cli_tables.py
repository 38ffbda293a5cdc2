"""Tables of the command line at every width, in pipes and as JSON."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from accelerator_autopilot.cli import output
from accelerator_autopilot.cli.app import COMMANDS
from accelerator_autopilot.cli.commands.alerts import ALERTS, alert_rows
from accelerator_autopilot.cli.commands.fleet import DEVICES
from accelerator_autopilot.cli.commands.jobs import DEAD, JOBS
from accelerator_autopilot.cli.commands.scheduling import DECISIONS
from accelerator_autopilot.cli.table_layout import Column, Row, Table, lay_out
from accelerator_autopilot.cli.text_sanitizing import clean, json_text, plain
from accelerator_autopilot.transport.clock import utc_now
from tests.support.builders import alert

WIDTHS = (40, 80, 120, 200)
ID = "4155bb3ac19c4f0e9d0f5a2b8c7d6e5f"
NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
DECISION: Row = {
    "at": NOW, "issuer": "scheduler", "command": "power", "value": "200 W", "target": "vm/sim-vm-0",
    "reason": "cap_cheapest", "status": "applied", "read_back": 200.0, "detail": "lease of 60 s", "id": ID,
}  # fmt: skip
DEVICE: Row = {
    "node": "rack-7-node-12", "device": "GPU-8f2c-11", "simulated": False, "model": "NVIDIA H100 80GB HBM3",
    "util_pct": 97.0, "memory_used_bytes": 6e10, "temp_c": 71.0, "power_w": 640.5, "power_limit_w": 700.0,
    "alerts": ["thermal"], "drained": True,
}  # fmt: skip
HOSTILE = "\x1b[2J\x1b]0;title\x07[/red] [bold]\u202eevil\u2066\x9b31m\r\nnext\tcell"


def drawn(table: Table, rows: list[Row], width: int) -> str:
    screen = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None, markup=False)
    screen.print(output.drawn((table, rows), width))
    return screen.file.getvalue()  # type: ignore[attr-defined]


class TestWidths:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize(("table", "row"), [(DECISIONS, DECISION), (DEVICES, DEVICE)])
    def test_what_matters_is_there_and_whole(self, table: Table, row: Row, width: int) -> None:
        text = drawn(table, [row, row], width)
        shown = " ".join(text.split())
        for column in table.columns:
            if column.terminal and not column.priority and not column.prose:
                value = column.text(row) if column.text else str(row[column.key])
                assert value in shown, (column.key, text)
        assert "…" not in text

    def test_decisions_fit_80_columns_with_their_reasons(self) -> None:
        text = drawn(DECISIONS, [DECISION], 80)
        for word in ("scheduler", "power 200 W", "vm/sim-vm-0", "cap_cheapest", "applied"):
            assert word in text.splitlines()[1]
        assert "not shown at this width" in text
        assert max(map(cell_len, text.splitlines())) <= 80

    def test_a_wide_terminal_shows_every_column(self) -> None:
        lines = drawn(DECISIONS, [DECISION], 200).splitlines()
        assert len(lines) == 2
        assert ID in lines[1]

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize(("table", "key"), [(ALERTS, "id"), (JOBS, "id"), (DEAD, "id")])
    def test_ids_that_other_commands_take_are_whole_on_one_line(self, table: Table, key: str, width: int) -> None:
        row = {c.key: "words " * 30 if c.prose else "value" for c in table.columns}
        row |= {key: ID, "at": NOW, "took_s": 1.5, "simulated": False}
        assert any(ID in line for line in drawn(table, [row], width).splitlines())

    def test_a_narrow_terminal_gets_a_block_a_row(self) -> None:
        told = alert(id=ID, summary="a device is hotter than others under the same load " * 3)
        text = drawn(ALERTS, alert_rows([told, told], {}), 40)
        assert text.count("severity") == 2
        assert "\n\n" in text
        assert all(cell_len(line) <= 40 for line in text.splitlines() if len(line.split()) > 2)

    def test_columns_go_in_the_order_of_their_priority(self) -> None:
        columns = (Column("a"), Column("b", priority=1), Column("c", priority=3), Column("d", priority=2))
        row = dict.fromkeys("abcd", "x" * 10)
        kept = [[c.key for c in lay_out(columns, [row], width, NOW).columns] for width in (46, 45, 33, 21)]
        assert kept == [["a", "b", "c", "d"], ["a", "b", "d"], ["a", "b"], ["a"]]
        assert lay_out(columns, [row], 9, NOW).blocks

    def test_a_column_without_values_takes_no_room(self) -> None:
        columns = (Column("a"), Column("b", priority=1))
        assert [c.key for c in lay_out(columns, [{"a": "x", "b": None}], 80, NOW).columns] == ["a"]

    def test_times_have_their_date_where_they_are_not_todays(self) -> None:
        columns = (Column("at"),)
        assert lay_out(columns, [{"at": NOW}], 80, NOW).cells == (("12:00:00",),)
        old = NOW - timedelta(days=1)
        assert lay_out(columns, [{"at": NOW}, {"at": old}], 80, NOW).cells[1] == ("2026-11-26 12:00:00",)

    def test_no_row_is_a_sentence(self) -> None:
        assert drawn(ALERTS, [], 80).strip() == "No alert is open."

    @given(
        st.lists(st.tuples(st.text(max_size=60), st.text(max_size=200)), min_size=1, max_size=5), st.integers(10, 220)
    )
    def test_no_table_is_wider_than_the_terminal(self, rows: list[tuple[str, str]], width: int) -> None:
        table = Table("t", (Column("name"), Column("words", prose=True), Column("more", priority=1)), "none")
        found = [{"name": n, "words": w, "more": n} for n, w in rows]
        layout = lay_out(table.columns, found, width, NOW)
        text = drawn(table, found, width)
        assert all(c.isprintable() or c == "\n" for c in text)
        if not layout.blocks:
            assert sum(layout.widths) + 2 * (len(layout.widths) - 1) <= width


class TestHostileText:
    def test_nothing_that_a_terminal_obeys_is_left(self) -> None:
        assert all(c.isprintable() for c in clean(HOSTILE))
        for width in WIDTHS:
            text = drawn(DEAD, [{"id": HOSTILE, "kind": HOSTILE, "at": NOW, "reason": "x", "error": HOSTILE}], width)
            assert all(c.isprintable() or c == "\n" for c in text)
            assert "[/red] [bold]" in text

    def test_a_line_of_a_pipe_stays_one_line_with_its_columns(self) -> None:
        row = {c.key: HOSTILE for c in DEAD.columns}
        lines = output.tab_separated(DEAD, [row]).split("\n")
        assert [len(line.split("\t")) for line in lines] == [5, 5]
        assert all(c.isprintable() or c == "\t" for line in lines for c in line)

    def test_json_holds_the_very_text_and_shows_none_of_it_to_the_terminal(self) -> None:
        text = json_text({"text": HOSTILE + "é漢😀\ud800"})
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "é漢😀" in text
        assert json.loads(text)["text"] == HOSTILE + "é漢😀\ud800"

    def test_a_very_long_value_does_not_fill_the_terminal(self) -> None:
        row = {"id": "1", "kind": "k", "at": NOW, "reason": "r", "error": "x" * 100_000}
        assert len(drawn(DEAD, [row], 80)) < 2000
        assert "x" * 100_000 in output.tab_separated(DEAD, [row])

    @pytest.mark.parametrize("width", [40, 80, 120])
    def test_wide_letters_keep_columns_straight(self, width: int) -> None:
        table = Table("t", (Column("name"), Column("words", prose=True)), "none")
        rows = [{"name": "機械学習", "words": "漢字 " * 20}, {"name": "a", "words": "plain " * 20}]
        lines = drawn(table, rows, width).splitlines()
        assert max(map(cell_len, lines)) <= width


class TestPlainValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [(None, ""), (True, "true"), (12, "12"), (12.0, "12"), (6e10, "60000000000"), (0.25, "0.25"),
         (["a", "b"], "a,b"), (NOW, "2026-11-27T12:00:00.000Z"), (float("nan"), "nan")],
    )  # fmt: skip
    def test_a_field_is_what_a_program_reads(self, value: object, text: str) -> None:
        assert plain(value) == text

    def test_json_has_no_numbers_that_json_does_not_know(self) -> None:
        assert json.loads(json_text({"a": float("nan"), "b": [float("inf")], "at": NOW})) == {
            "a": None, "b": [None], "at": "2026-11-27T12:00:00.000Z",
        }  # fmt: skip


class TestShow:
    LISTINGS = ((DECISIONS, [DECISION]), (DEVICES, []))

    def test_a_pipe_gets_lines_with_a_heading_and_no_escapes(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.use(json=False)
        output.show(*self.LISTINGS, note="for people")
        heading, line = capsys.readouterr().out.splitlines()
        assert heading.split("\t") == [c.key for c in DECISIONS.columns]
        assert line.split("\t")[0] == "2026-11-27T12:00:00.000Z"
        assert line.endswith(ID)

    def test_json_is_one_document_with_the_same_keys(self, capsys: pytest.CaptureFixture[str]) -> None:
        output.use(json=True)
        try:
            output.show(*self.LISTINGS, queue={"jobs": 3})
        finally:
            output.use(json=False)
        found = json.loads(capsys.readouterr().out)
        assert list(found) == ["decisions", "devices", "queue"]
        assert list(found["decisions"][0]) == [c.key for c in DECISIONS.columns]

    @pytest.mark.parametrize("switch", ["NO_COLOR", "--no-color", None])
    def test_colour_can_be_switched_off(self, switch: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")
        if switch == "NO_COLOR":
            monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(sys, "stdout", terminal := Terminal())
        output.use(color=switch != "--no-color")
        try:
            output.show((DECISIONS, [{**DECISION, "status": "refused"}]))
        finally:
            output.use(color=True)
        assert ("\x1b[" in terminal.getvalue()) is (switch is None)
        assert "refused: lease of 60 s" in terminal.getvalue(), "why something was refused is never left out"


def tables() -> list[Table]:
    modules = {c.module for c in COMMANDS}
    found = [import_module(f"accelerator_autopilot.cli.commands.{m}") for m in sorted(modules)]
    return [value for module in found for value in vars(module).values() if isinstance(value, Table)]


@pytest.mark.parametrize("table", tables(), ids=lambda t: t.name)
def test_every_table_has_sound_columns(table: Table) -> None:
    keys = [c.key for c in table.columns]
    assert len(set(keys)) == len(keys)
    assert all(key == key.lower() and " " not in key for key in (*keys, table.name))
    assert any(c.terminal and not c.priority for c in table.columns), "something has to stay"
    assert table.empty.endswith(".")
    assert utc_now().tzinfo is UTC
