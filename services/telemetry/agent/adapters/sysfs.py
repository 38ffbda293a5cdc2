"""Read small kernel files: texts and numbers that may be missing or malformed."""

from __future__ import annotations

import math
from pathlib import Path

MAX_TEXT = 64 * 1024
MAX_WORD_BYTES = 120
_MAX_COUNT = 2**63


def read_text(path: Path) -> str | None:
    """Return a file's text without NUL and surrounding whitespace; None where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_TEXT).replace("\0", "").strip()
    except (OSError, UnicodeDecodeError):
        return None


def read_word(path: Path) -> str | None:
    """Return a file's text if it can be part of a name: not empty and not long."""
    found = read_text(path)
    return found if found and len(found.encode()) <= MAX_WORD_BYTES else None


def read_number(path: Path, scale: float = 1.0) -> float | None:
    """Return a file's number times `scale`; None unless it is finite."""
    found = read_text(path)
    try:
        number = float(found) * scale if found is not None else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


def read_count(path: Path, below: int = _MAX_COUNT) -> int | None:
    """Return a file's whole number from 0 to `below`."""
    number = read_number(path)
    return int(number) if number is not None and 0 <= number < below else None


def read_first(paths: list[Path], scale: float = 1.0) -> float | None:
    """Return the number of the first file that has one."""
    return next((value for value in (read_number(path, scale) for path in paths) if value is not None), None)


def known(**values: float | None) -> dict[str, float]:
    """Return a sample of the values that could be read."""
    return {name: value for name, value in values.items() if value is not None}
