"""Errors of the inference service.

AutopilotError
├── RetryableJobError     this attempt failed, the next may not
│   ├── RunTimeoutError   it did not end within its time
│   └── ModelLoadError    this worker cannot load its model
├── NotConfiguredError    the kind needs a model or tool that this fleet has not
└── CannotRunError        no worker of the fleet can run the job
"""

from __future__ import annotations

from shared.errors import AutopilotError


class RetryableJobError(AutopilotError):
    """This attempt failed for a reason that may pass."""

    retryable = True


class RunTimeoutError(RetryableJobError):
    """The attempt did not end within its time; told as `timeout`."""

    told_as = "timeout"


class ModelLoadError(RetryableJobError):
    """This worker cannot load its model, whatever the job; another may."""


class NotConfiguredError(AutopilotError):
    """The kind needs a model or tool that this fleet does not have."""


class CannotRunError(AutopilotError):
    """No worker of the fleet can run the job."""
