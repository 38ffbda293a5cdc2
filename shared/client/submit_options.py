"""Convert a caller's arguments to a job: payload models to plain JSON, times to seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.job_building import first_problem
from accelerator_autopilot.contracts.kinds.base import Payload, R, Result
from accelerator_autopilot.contracts.messages.jobs import JobNeeds, Priority
from accelerator_autopilot.contracts.streams import DAY_S, JOB_AGE_S
from accelerator_autopilot.transport.clock import utc_now

When: TypeAlias = datetime | timedelta | float
"""A moment: a datetime with its time zone, or a time from now as a timedelta or in seconds."""
P = TypeVar("P", bound=Payload[Any])


@runtime_checkable
class Identified(Protocol):
    """Something with an id, such as a job's handle."""

    @property
    def id(self) -> str:
        """The id."""


def job_options(
    *,
    priority: Priority,
    pool: str | None,
    needs: JobNeeds | None,
    deadline: When | None,
    not_before: When | None,
    after: Iterable[str | Identified],
    time_limit: float | None,
    max_attempts: int,
    keep_result: float,
) -> dict[str, Any]:
    """Return the fields of `Options` in `contracts.job_building`. Raises InvalidInputError."""
    now = utc_now()
    if pool is not None:
        try:
            needs = JobNeeds.model_validate((needs.model_dump() if needs else {}) | {"pool": pool})
        except ValidationError as error:
            raise first_problem(error) from error
    until = None if deadline is None else moment("deadline", deadline, now)
    return {
        "priority": priority,
        "needs": needs,
        "deadline_at": until,
        # A job that has longer than a day must not expire after one.
        "ttl_s": DAY_S if until is None else min(JOB_AGE_S, max(DAY_S, (until - now).total_seconds())),
        "at": None if not_before is None else moment("not_before", not_before, now),
        "after": [one.id if isinstance(one, Identified) else one for one in after],
        "timeout_s": time_limit,
        "max_attempts": max_attempts,
        "result_ttl_s": keep_result,
    }


def moment(name: str, when: When, now: datetime) -> datetime:
    """Return the moment meant. Raises InvalidInputError for a datetime without a time zone."""
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise InvalidInputError(
                name, when.isoformat(), "must have a time zone, for example datetime.now(timezone.utc)"
            )
        return when
    return now + (when if isinstance(when, timedelta) else timedelta(seconds=when))


def seconds(time: timedelta | float) -> float:
    """Return a duration in seconds."""
    return time.total_seconds() if isinstance(time, timedelta) else float(time)


def make_payload(model: type[P], /, **fields: Any) -> P:
    """Create a payload from these fields; None leaves a field at its default.

    Raises InvalidInputError that names the field. Arrays and series of numpy, pandas and polars are lists here.
    """
    given = {name: _plain(value) for name, value in fields.items() if value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise first_problem(error) from error


def kind_and_body(
    payload: Payload[R] | Mapping[str, Any], kind: str | None
) -> tuple[str, dict[str, Any], type[Result] | None]:
    """Return the kind's name, the payload as JSON, and the model of its result if known. Raises InvalidInputError."""
    if isinstance(payload, Payload):
        body = payload.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return kind or payload.kind_name, body, payload.result_model
    if kind is None:
        raise InvalidInputError("kind", None, "is needed with a plain dictionary: submit({...}, kind='embed')")
    return kind, dict(payload), None


def _plain(value: Any) -> Any:
    for name in ("tolist", "to_list"):
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | list | BaseModel):
        return list(value)
    return value
