"""Values that depend on the time of day. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from accelerator_autopilot.contracts.messages.commands import PowerBudget, TimedValue


def value_at(table: Sequence[TimedValue], now: datetime, otherwise: float) -> float:
    """Return the first value whose span contains this moment (UTC)."""
    return next((entry.value for entry in table if within(entry.start, entry.end, now)), otherwise)


def mean_of(table: Sequence[TimedValue], otherwise: float) -> float:
    """Return the mean over the day, in steps of a quarter of an hour."""
    if not table:
        return otherwise
    day = datetime(2000, 1, 1)  # noqa: DTZ001  only hours and minutes are read
    moments = [day.replace(hour=h, minute=m) for h in range(24) for m in (0, 15, 30, 45)]
    return sum(value_at(table, at, otherwise) for at in moments) / len(moments)


def budgets_at(budgets: Sequence[PowerBudget], now: datetime) -> list[PowerBudget]:
    """Return the budgets in effect at this moment."""
    return [b for b in budgets if within(b.start, b.end, now)]


def within(start: str, end: str, now: datetime) -> bool:
    """Whether the time of now is in [start, end), given as HH:MM; equal start and end mean all day."""
    at = now.strftime("%H:%M")
    if start == end:
        return True
    return start <= at < end if start < end else at >= start or at < end
