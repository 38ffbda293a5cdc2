"""Output of every command: tables on a terminal, tab-separated lines in a pipe, one JSON document with --json."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from accelerator_autopilot.cli.table_layout import GAP, Layout, Row, Table, lay_out
from accelerator_autopilot.cli.text_sanitizing import clean_lines, json_text, plain
from accelerator_autopilot.contracts.exit_codes import ExitCode
from accelerator_autopilot.transport.clock import utc_now

Listing = tuple[Table, Sequence[Row]]
LABEL_SHARE = 3  # a value moves below its label where labels take more than this share of the width


@dataclass
class _Mode:
    json: bool = False
    color: bool = True


_mode = _Mode()


def use(*, json: bool | None = None, color: bool | None = None) -> None:
    """Set the output format of this process."""
    _mode.json = _mode.json if json is None else json
    _mode.color = _mode.color if color is None else color


def writes_json() -> bool:
    """Whether the output is a JSON document."""
    return _mode.json


def on_terminal() -> bool:
    """Whether the output goes to a terminal."""
    return not _mode.json and sys.stdout.isatty()


def console(*, stderr: bool = False) -> Console:
    """Return a console without markup; without styles too for NO_COLOR, --no-color or a pipe."""
    colored = _mode.color and not os.environ.get("NO_COLOR")
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, color_system="auto" if colored else None)


def show(*listings: Listing, note: str = "", **more: object) -> None:
    """Print tables. `note` is for people only, `more` are further parts of the JSON document."""
    if _mode.json:
        print(json_text(document(*listings) | more))
    elif not on_terminal():
        # A program reads the first table; a heading without rows would only be in its way.
        shown = [listing for number, listing in enumerate(listings) if not number or listing[1]]
        print("\n\n".join(tab_separated(table, rows) for table, rows in shown))
    else:
        screen = console()
        for number, listing in enumerate(listings):
            if number:
                screen.print()
            screen.print(drawn(listing, screen.width), soft_wrap=False)
        if note:
            screen.print(Text(note), soft_wrap=True)


def say(text: str, **facts: object) -> None:
    """Print a sentence, or with --json its facts as a document."""
    print(json_text(facts) if _mode.json else clean_lines(text), flush=True)


def say_prose(text: str) -> None:
    """Print sentences, wrapped between words on a terminal."""
    if on_terminal():
        console().print(Text(clean_lines(text)))
    else:
        print(clean_lines(text))


def show_document(content: Any) -> None:
    """Print what is JSON already: the output of a job, a policy."""
    print(json_text(content))


def progress(text: str, *, end: str = "\n") -> None:
    """Report progress to people, on standard error."""
    console(stderr=True).print(Text(clean_lines(text)), end=end, soft_wrap=True)


def fail(text: str, code: int = ExitCode.FAILED) -> NoReturn:
    """Print an error in one line, and exit."""
    line = Text("error: ", style="red").append(clean_lines(text), style="default")
    console(stderr=True).print(line, soft_wrap=True)
    raise typer.Exit(int(code))


def document(*listings: Listing) -> dict[str, object]:
    """Return tables for JSON: rows of every column under the name of their table."""
    return {table.name: [{c.key: row.get(c.key) for c in table.columns} for row in rows] for table, rows in listings}


def tab_separated(table: Table, rows: Sequence[Row]) -> str:
    """Return a header line, then a line per row: every column, values for programs."""
    lines = ["\t".join(c.key for c in table.columns)]
    lines += ["\t".join(plain(row.get(c.key)) for c in table.columns) for row in rows]
    return "\n".join(lines)


def drawn(listing: Listing, width: int) -> RenderableType:
    """Return a table as a terminal of this width shows it."""
    table, rows = listing
    if not rows:
        return Text(table.empty, style="dim")
    layout = lay_out(table.columns, rows, width, utc_now())
    if layout.blocks:
        return _Lines(_blocks(layout, rows, width))
    columns = _columns(layout, rows)
    if not layout.hidden:
        return columns
    hint = Text(f"not shown at this width: {', '.join(layout.hidden)} (--json shows all)", style="dim")
    return Group(columns, hint)


def _columns(layout: Layout, rows: Sequence[Row]) -> RichTable:
    table = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column, width in zip(layout.columns, layout.widths, strict=True):
        table.add_column(Text(column.heading), width=width, no_wrap=not column.prose, overflow="fold")
    for row, cells in zip(rows, layout.cells, strict=True):
        styles = [c.style(row) if c.style else "" for c in layout.columns]
        table.add_row(*(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)))
    return table


class _Lines:
    """Lines that are printed unchanged: the terminal wraps long ones, and copying one yields all of it."""

    def __init__(self, lines: Sequence[Text]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, _: object) -> Any:
        for line in self._lines:
            yield from console.render(line, console.options.update(no_wrap=True, overflow="ignore"))


def _blocks(layout: Layout, rows: Sequence[Row], width: int) -> list[Text]:
    label = max(len(c.heading) for c in layout.columns) + GAP
    beside = label * LABEL_SHARE <= width
    lines: list[Text] = []
    for number, (row, cells) in enumerate(zip(rows, layout.cells, strict=True)):
        lines += [Text()] if number else []
        for column, cell in zip(layout.columns, cells, strict=True):
            if not cell:
                continue
            value = Text(cell, style=column.style(row) if column.style else "")
            room = width - label if beside else width - GAP
            parts = list(value.wrap(console(), room, overflow="fold")) if column.prose else [value]
            if beside and (column.prose or value.cell_len <= room):
                names = [column.heading] + [""] * (len(parts) - 1)
                lines += [Text(f"{n:{label}}", style="bold").append_text(p) for n, p in zip(names, parts, strict=True)]
            else:
                indent = " " * GAP if value.cell_len + GAP <= width or column.prose else ""
                lines += [Text(column.heading, style="bold"), *(Text(indent).append_text(p) for p in parts)]
    return lines
