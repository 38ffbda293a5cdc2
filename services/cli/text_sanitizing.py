"""Make untrusted text safe to display: nothing in it is markup or a terminal escape sequence. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MAX_SHOWN_CHARACTERS = 500  # characters of one value in a table; pipes and JSON are not truncated
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    """Return one line of printable text: white space becomes blanks, escape characters a replacement mark."""
    return "".join(c if c.isprintable() else " " if c.isspace() else REPLACEMENT for c in text)


def clean_lines(text: str) -> str:
    """Return several lines of printable text."""
    return "\n".join(map(clean, text.split("\n")))


def clipped(text: str, longest: int = MAX_SHOWN_CHARACTERS) -> str:
    """Truncate text that is longer than any table should show."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def plain(value: object) -> str:
    """Return a value as one field of a line for programs: no unit, no rounding, times in ISO 8601."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, list | tuple):
        return ",".join(map(plain, value))
    return clean(str(value))


def json_text(document: object, *, indent: int | None = 2) -> str:
    """Return a JSON document with unescaped letters and escaped terminal controls."""
    text = json.dumps(_jsonable(document), ensure_ascii=False, indent=indent, allow_nan=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _jsonable(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(part) for part in value]
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
