"""Errors of the notifier."""

from accelerator_autopilot.contracts.errors import AutopilotError


class RefusedTargetError(AutopilotError):
    """The receiver's address is not allowed."""
