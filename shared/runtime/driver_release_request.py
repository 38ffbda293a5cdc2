"""A file by which an operator asks an agent to release its drivers: one that is in use cannot be upgraded.

It works without a broker: whoever upgrades a driver writes it into the agent's data folder. It contains the time until
which drivers are released, in seconds since 1970; an empty one counts for an hour from when it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from accelerator_autopilot.contracts.errors import UnavailableError

FILE = "drivers-released"
DEFAULT_RELEASE_S = 3600.0
MAX_S = 86_400.0


def release(folder: Path, until_s: float) -> None:
    """Ask the agent of this data folder to release its drivers until then. Raises UnavailableError."""
    draft = folder / f"{FILE}.tmp"
    try:
        draft.write_text(f"{until_s:.0f}\n")
        draft.replace(folder / FILE)
    except OSError as error:
        raise UnavailableError(f"{folder / FILE} cannot be written: {error}") from error


def take_back(folder: Path) -> None:
    """Let the agent open its drivers again. Raises UnavailableError."""
    try:
        (folder / FILE).unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(f"{folder / FILE} cannot be removed: {error}") from error


def released(folder: Path, now_s: Callable[[], float]) -> str:
    """Return why drivers must not be opened now; empty when they may."""
    path = folder / FILE
    try:
        written_s = path.stat().st_mtime
        until_s = min(_moment(path.read_text(), written_s), written_s + MAX_S)
    except (OSError, UnicodeDecodeError):
        return ""
    if now_s() >= until_s:
        return ""
    return f"released by an operator until {datetime.fromtimestamp(until_s, UTC):%H:%M} UTC (autopilot driver take)"


def _moment(text: str, written_s: float) -> float:
    try:
        return float(text)
    except ValueError:
        return written_s + DEFAULT_RELEASE_S
