"""The base class and field types of all messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Self, TypedDict

from annotated_types import Ge, Lt
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT, PROJECT_PATTERN

MOST_NAME_BYTES = 200
MOST_TEXT = 4000
MOST_LABEL = 500


def _name(text: str) -> str:
    if len(text.encode()) > MOST_NAME_BYTES:
        raise ValueError(f"must have at most {MOST_NAME_BYTES} bytes")
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


def _cut(most: int) -> AfterValidator:
    # What people read is cut, never refused: an alert with a long summary is still an alert.
    return AfterValidator(lambda text: text[:most].replace("\0", ""))


Name = Annotated[str, StringConstraints(min_length=1, max_length=MOST_NAME_BYTES), AfterValidator(_name)]
"""A name used in subjects, keys or ids: 1 to 200 bytes."""
Label = Annotated[str, _cut(MOST_LABEL)]
"""A short text; longer ones are truncated."""
Text = Annotated[str, _cut(MOST_TEXT)]
"""A text for people; longer ones are truncated."""
Count = Annotated[int, Ge(0), Lt(2**31)]
"""A count that fits the database's integers."""
BigCount = Annotated[int, Ge(0), Lt(2**63)]
"""A size or a long-lived count; fits the database's big integers."""
Timestamp = Annotated[AwareDatetime, Ge(datetime(1970, 1, 1, tzinfo=UTC)), Lt(datetime(9000, 1, 1, tzinfo=UTC))]
"""A time far enough from the calendar's end that a time to live can be added."""


class Message(BaseModel):
    """A versioned message. Fields are only ever added, with a default; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    schema_version: int = 1


ProjectName = Annotated[str, StringConstraints(pattern=PROJECT_PATTERN)]
"""The name of a project, which fits a subject, a DNS label and a Kubernetes namespace alike."""


class Owner(TypedDict):
    """The fields that say whose a message is and who caused it."""

    project: str
    actor: str


class OwnedMessage(Message):
    """A message that travels or is stored by itself: it says whose it is and who caused it.

    The actor is a person, a program or a service. Where a message names one in an older field, such as a job's
    submitter, the actor is the same unless it is given.
    """

    ACTOR_FIELD: ClassVar[str] = ""
    """The field that names the actor of this message, if it has one."""
    DEFAULT_ACTOR: ClassVar[str] = ""
    """The service that sends messages of this class, if only one does."""

    project: ProjectName = DEFAULT_PROJECT
    actor: Label = Field(default="", description="person, program or service that caused it")

    @model_validator(mode="after")
    def _actor_is_known(self) -> Self:
        if not self.actor:
            actor = str(getattr(self, self.ACTOR_FIELD) or "") if self.ACTOR_FIELD else self.DEFAULT_ACTOR
            if actor:
                # Frozen for others; this is still the making of it.
                object.__setattr__(self, "actor", actor)
        return self

    @property
    def owner(self) -> Owner:
        """Its project and actor, for messages that follow from it."""
        return {"project": self.project, "actor": self.actor}
