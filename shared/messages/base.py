"""What all messages have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Timestamp = AwareDatetime


class Message(BaseModel):
    """A versioned fact; fields are only ever added, with a default, and unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    schema_version: int = 1
