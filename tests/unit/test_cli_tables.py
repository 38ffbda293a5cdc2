"""Tables of the command line at the width of a usual terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from accelerator_autopilot.cli.session import PlainConsole


@pytest.mark.parametrize("header", ["id", "alert", "subscription"])
def test_what_another_command_takes_is_never_cut(header: str) -> None:
    name = "4155bb3ac19c4f0e9d0f5a2b8c7d6e5f"
    table = Table("at", header, "reason", "what happened at length")
    table.add_row("2026-11-27 10:00:00", name, "invalid", "words " * 40)
    console = PlainConsole()
    console.width, console.file = 80, io.StringIO()
    console.print(table)
    assert name in console.file.getvalue()
