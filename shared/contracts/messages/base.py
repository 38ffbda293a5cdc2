"""What all messages have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from annotated_types import Ge, Lt
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints

MOST_NAME_BYTES = 200
MOST_TEXT = 4000
MOST_LABEL = 500


def _name(text: str) -> str:
    if len(text.encode()) > MOST_NAME_BYTES:
        raise ValueError(f"a name has at most {MOST_NAME_BYTES} bytes")
    if "\0" in text:
        raise ValueError("a name has no NUL in it")
    return text


def _cut(most: int) -> AfterValidator:
    # What people read is cut, never refused: an alert with a long summary is still an alert.
    return AfterValidator(lambda text: text[:most].replace("\0", ""))


Name = Annotated[str, StringConstraints(min_length=1, max_length=MOST_NAME_BYTES), AfterValidator(_name)]
"""What is part of a subject, a key or an identity: 1 to 200 bytes."""
Label = Annotated[str, _cut(MOST_LABEL)]
"""A short text about something; longer ones are cut."""
Text = Annotated[str, _cut(MOST_TEXT)]
"""A text for people; longer ones are cut."""
Count = Annotated[int, Ge(0), Lt(2**31)]
"""How many; fits the database's integers."""
BigCount = Annotated[int, Ge(0), Lt(2**63)]
"""A size or a long-lived count; fits the database's big integers."""
Timestamp = Annotated[AwareDatetime, Ge(datetime(1970, 1, 1, tzinfo=UTC)), Lt(datetime(9000, 1, 1, tzinfo=UTC))]
"""A moment that adding a time to live cannot push out of the calendar."""


class Message(BaseModel):
    """A versioned fact; fields are only ever added, with a default, and unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    schema_version: int = 1
