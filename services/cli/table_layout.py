"""Fit a table to a width: all columns, fewer columns, or a block of lines per row. Pure.

A value is never truncated to fit. Columns of prose are wrapped; optional columns are dropped, the highest `priority`
first; where the rest still does not fit, each row becomes a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.cells import cell_len

from accelerator_autopilot.cli.text_sanitizing import clean, clipped, plain

Row = Mapping[str, object]
GAP = 2
PROSE = 24  # columns below which prose is not squeezed


@dataclass(frozen=True)
class Column:
    """One value of each row: `key` in JSON and in pipes, `title` on a terminal.

    `priority` 0 is never dropped; `prose` may be wrapped; `text` is how a terminal shows the value, if not as it
    is; with `terminal=False` only programs see it.
    """

    key: str
    title: str = ""
    priority: int = 0
    prose: bool = False
    text: Callable[[Row], str] | None = None
    style: Callable[[Row], str] | None = None
    terminal: bool = True

    @property
    def heading(self) -> str:
        """The heading on a terminal."""
        return self.title or self.key.replace("_", " ")


@dataclass(frozen=True)
class Table:
    """Columns under the name that their rows have in JSON; `empty` is printed on a terminal when there are no rows."""

    name: str
    columns: tuple[Column, ...]
    empty: str


@dataclass(frozen=True)
class Layout:
    """The shown columns with their widths; no widths where each row is a block. `hidden` are dropped."""

    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...]
    hidden: tuple[str, ...] = ()

    @property
    def blocks(self) -> bool:
        """Whether each row is a block of lines."""
        return not self.widths


def lay_out(columns: Sequence[Column], rows: Sequence[Row], width: int, now: datetime) -> Layout:
    """Return the best layout of these rows in a terminal of this width; `now` defines today."""
    texts = {c: _texts(c, rows, now) for c in columns if c.terminal}
    # A column without any value is omitted.
    shown = [c for c, cells in texts.items() if any(cells) or not c.priority]
    hidden: list[Column] = []
    while _least(shown, texts) > width:
        spare = [c for c in shown if c.priority]
        if not spare:
            every = [c for c in texts if any(texts[c]) or not c.priority]
            return Layout(tuple(every), _rows(every, texts), ())
        last = max(spare, key=lambda c: (c.priority, shown.index(c)))
        shown.remove(last)
        hidden.append(last)
    names = tuple(c.heading for c in columns if c in hidden)
    return Layout(tuple(shown), _rows(shown, texts), _widths(shown, texts, width), names)


def _texts(column: Column, rows: Sequence[Row], now: datetime) -> list[str]:
    if column.text is not None:
        show = column.text
        return [clipped(clean(show(row))) for row in rows]
    values = [row.get(column.key) for row in rows]
    if any(isinstance(v, datetime) for v in values):
        return _times(values, now)
    return [clipped(", ".join(map(plain, v)) if isinstance(v, list | tuple) else plain(v)) for v in values]


def _times(values: Sequence[object], now: datetime) -> list[str]:
    """Format times without dates where all are today's; UTC, as the heading says."""
    today = all(v.astimezone(UTC).date() == now.date() for v in values if isinstance(v, datetime))
    pattern = "%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S"
    return [v.astimezone(UTC).strftime(pattern) if isinstance(v, datetime) else "" for v in values]


def _rows(columns: Sequence[Column], texts: Mapping[Column, list[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(zip(*(texts[c] for c in columns), strict=True))


def _full(column: Column, texts: Mapping[Column, list[str]]) -> int:
    return max(map(cell_len, (column.heading, *texts[column])))


def _narrow(column: Column, texts: Mapping[Column, list[str]]) -> int:
    full = _full(column, texts)
    return max(cell_len(column.heading), min(full, PROSE)) if column.prose else full


def _least(columns: Sequence[Column], texts: Mapping[Column, list[str]]) -> int:
    return sum(_narrow(c, texts) for c in columns) + GAP * (len(columns) - 1)


def _widths(columns: Sequence[Column], texts: Mapping[Column, list[str]], width: int) -> tuple[int, ...]:
    """Distribute the remaining width among prose columns, in proportion to what each lacks."""
    widths = [_narrow(c, texts) for c in columns]
    lacks = [_full(c, texts) - w for c, w in zip(columns, widths, strict=True)]
    left = width - _least(columns, texts)
    share = min(1.0, left / sum(lacks)) if sum(lacks) else 0.0
    return tuple(w + int(lack * share) for w, lack in zip(widths, lacks, strict=True))
