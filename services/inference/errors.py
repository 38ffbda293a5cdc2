"""Errors of the inference service.

AutopilotError
└── RetryableJobError     this attempt failed, the next may not
"""

from __future__ import annotations

from shared.errors import AutopilotError


class RetryableJobError(AutopilotError):
    """This attempt failed for a reason that may pass."""

    retryable = True
