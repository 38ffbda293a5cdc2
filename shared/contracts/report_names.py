"""Names of the weekly reports in the object store `artifacts`."""

from __future__ import annotations

import re
from datetime import datetime

from accelerator_autopilot.contracts.errors import InvalidInputError

PREFIX = "report-"
WEEK = re.compile(r"\d{4}-W\d{2}")


def report_name(since: datetime) -> str:
    """Return the name for the week that contains this moment, by ISO 8601."""
    year, week, _ = since.isocalendar()
    return f"{PREFIX}{year}-W{week:02d}"


def name_of_week(week: str) -> str:
    """Return the name for a week such as 2026-W47. Raises InvalidInputError."""
    if not WEEK.fullmatch(week):
        raise InvalidInputError("week", week, "must have the form 2026-W47")
    return PREFIX + week
