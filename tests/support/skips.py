"""Skips that nobody allowed fail a run that is to prove something."""

from __future__ import annotations

import re
from pathlib import Path

LIST = Path(__file__).parents[1] / "allowed_skips.txt"
SETTING = "AUTOPILOT_STRICT_SKIPS"


def allowed(reason: str) -> bool:
    """Whether the list has this reason."""
    lines = [line.strip() for line in LIST.read_text(encoding="utf-8").splitlines()]
    told = reason.removeprefix("Skipped: ")
    return any(re.match(line, told) for line in lines if line and not line.startswith("#"))
