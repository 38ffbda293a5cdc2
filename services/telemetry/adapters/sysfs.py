"""Small files of the kernel: numbers that may be missing."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """A file's text without white space around it; None where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def read_number(path: Path, scale: float = 1.0) -> float | None:
    """A file's number times `scale`."""
    found = read_text(path)
    try:
        return float(found) * scale if found is not None else None
    except ValueError:
        return None


def read_first(paths: list[Path], scale: float = 1.0) -> float | None:
    """The first of several files that has a number."""
    return next((value for value in (read_number(path, scale) for path in paths) if value is not None), None)


def known(**values: float | None) -> dict[str, float]:
    """A sample of those values that could be read."""
    return {name: value for name, value in values.items() if value is not None}
