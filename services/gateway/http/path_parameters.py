"""Names that callers send: short enough, in bytes, to be part of a subject or key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query
from pydantic import AfterValidator, Field

# Every byte may take three in a subject, and a subject that is too long ends the connection to NATS.
MOST_BYTES = 200
_FIRST_PRINTABLE = " "


def fits(name: str) -> str:
    """The name itself. Raises ValueError for one that is too long or has control characters."""
    if len(name.encode(errors="replace")) > MOST_BYTES:
        raise ValueError(f"must have at most {MOST_BYTES} bytes")
    if any(c < _FIRST_PRINTABLE or c == "\x7f" for c in name):
        raise ValueError("must not contain control characters")
    return name


Named = Annotated[str, Field(min_length=1, max_length=MOST_BYTES), AfterValidator(fits)]
"""A name in a body."""

Id = Annotated[str, Path(min_length=1, max_length=MOST_BYTES), AfterValidator(fits)]
"""A name in a path."""

Filter = Annotated[str | None, Query(min_length=1, max_length=MOST_BYTES), AfterValidator(lambda n: n and fits(n))]
"""A name in a query, or none."""

Key = Annotated[str | None, Header(alias="idempotency-key", max_length=200)]
"""What makes two requests the same one."""

Text = Annotated[str, Field(max_length=500), AfterValidator(lambda t: t.replace("\x00", ""))]
"""What a person has to say; NUL, which no database takes as text, is left out."""
