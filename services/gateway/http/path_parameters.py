"""Names in requests: short enough, in bytes, to be part of a subject or key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query
from pydantic import AfterValidator, Field

# Every byte may become three in a subject, and a subject that is too long closes the connection to NATS.
MAX_BYTES = 200
_FIRST_PRINTABLE = " "


def fits(name: str) -> str:
    """Return the name. Raises ValueError for one that is too long or has control characters."""
    if len(name.encode(errors="replace")) > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES} bytes")
    if any(c < _FIRST_PRINTABLE or c == "\x7f" for c in name):
        raise ValueError("must not contain control characters")
    return name


Named = Annotated[str, Field(min_length=1, max_length=MAX_BYTES), AfterValidator(fits)]
"""A name in a body."""

Id = Annotated[str, Path(min_length=1, max_length=MAX_BYTES), AfterValidator(fits)]
"""A name in a path."""

Filter = Annotated[str | None, Query(min_length=1, max_length=MAX_BYTES), AfterValidator(lambda n: n and fits(n))]
"""A name in a query, optional."""

Key = Annotated[str | None, Header(alias="idempotency-key", max_length=200)]
"""The key that identifies retries of one request."""

Text = Annotated[str, Field(max_length=500), AfterValidator(lambda t: t.replace("\x00", ""))]
"""Free text from a person; NUL, which the database does not store, is removed."""
