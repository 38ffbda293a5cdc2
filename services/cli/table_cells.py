"""Cells of tables that show what others wrote: as it is, and nothing of it as markup or as a terminal's commands."""

from __future__ import annotations

from rich.text import Text


def cell(text: str, longest: int = 200) -> Text:
    """Text from outside, cut to a length."""
    return Text("".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in text[:longest]))
