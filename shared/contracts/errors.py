"""The root of every error this product raises on purpose.

AutopilotError
├── InvalidInputError      the caller's data is wrong: field, value, rule
│   ├── SubjectError       a name that no subject can carry
│   └── MalformedMessageError  a message that is not what its subject promises
├── NotFoundError          what was named does not exist
├── ConflictError          it exists already or changed meanwhile
├── UnavailableError       something outside is away; trying again may help (retryable)
│   └── BusyError          no more is taken for now; says when to come back
├── SettingsError          the process was configured wrongly
└── JobFailedError         a job ended without a result
    └── JobCancelledError  it was cancelled; also a concurrent.futures.CancelledError
"""

from __future__ import annotations

from concurrent.futures import CancelledError

MAX_SHOWN = 200  # characters of a value that a message includes


class AutopilotError(Exception):
    """Base of our errors; `retryable` decides between another attempt and a dead letter."""

    retryable = False


class InvalidInputError(AutopilotError):
    """A field violates a rule."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field, self.value, self.rule = field, value, rule
        shown = repr(value)
        super().__init__(f"{field}={shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + '…'}: {rule}")


class SubjectError(InvalidInputError, ValueError):
    """A name that no subject can contain: empty, too long, or not text."""


class MalformedMessageError(InvalidInputError):
    """A message that does not match its subject; retrying cannot help."""


class NotFoundError(AutopilotError):
    """What was named does not exist."""


class ConflictError(AutopilotError):
    """It exists already, or it changed since it was read."""


class UnavailableError(AutopilotError):
    """A dependency is currently unavailable."""

    retryable = True


class BusyError(UnavailableError):
    """No more is accepted for now."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        self.retry_after_s = max(1.0, retry_after_s)
        super().__init__(f"{reason}; try again in {self.retry_after_s:.0f} s")


class SettingsError(AutopilotError):
    """The process was configured incorrectly; it must not start."""


class JobFailedError(AutopilotError):
    """A job ended without a result."""


class JobCancelledError(JobFailedError, CancelledError):
    """A job was cancelled before it had a result."""
