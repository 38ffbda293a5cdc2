"""Errors of the inference service.

AutopilotError
├── RetryableJobError     this attempt failed, the next may not
│   ├── RunTimeoutError   it did not end within its time
│   ├── ModelLoadError    this worker cannot load its model
│   ├── DeviceMemoryError  the device has too little memory free
│   └── KindFailedError   the kind, or a library that it uses, failed
├── NotConfiguredError    the kind needs a model or tool that this fleet has not
└── CannotRunError        no worker of the fleet can run the job
"""

from __future__ import annotations

from accelerator_autopilot.contracts.errors import AutopilotError


class RetryableJobError(AutopilotError):
    """This attempt failed for a reason that may pass; `of_device` means that the worker's device may be the cause."""

    retryable = True
    of_device = False


class RunTimeoutError(RetryableJobError):
    """The attempt did not finish within its time limit; reported as `timeout`."""

    reported_as = "timeout"


class ModelLoadError(RetryableJobError):
    """This worker cannot load its model, whatever the job; another worker may."""

    of_device = True


class DeviceMemoryError(RetryableJobError):
    """The device has too little free memory for this job, even alone."""

    of_device = True


class KindFailedError(RetryableJobError):
    """A kind, or a library that it uses, failed with an error that is not ours, so the cause is unknown.

    Only the type of that error is reported, never its text, which may quote the job.
    """

    def __init__(self, kind: str, failed_as: str, what: str, *, of_device: bool = False) -> None:
        self.reported_as, self.of_device = failed_as, of_device
        super().__init__(f"{kind} failed: {what}")


class NotConfiguredError(AutopilotError):
    """The kind needs a model or tool that this fleet does not have."""


class CannotRunError(AutopilotError):
    """No worker of the fleet can run the job."""
