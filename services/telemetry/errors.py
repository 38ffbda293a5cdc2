"""Errors of the telemetry service.

AutopilotError
├── PowerControlError     a device did not take a cap
├── SourceBusyError       a source had no turn for a call within the time
└── SourceHungError       a driver call did not return
"""

from __future__ import annotations

from accelerator_autopilot.contracts.errors import AutopilotError


class PowerControlError(AutopilotError):
    """A device did not accept or report a power cap."""


class SourceBusyError(AutopilotError):
    """Other calls of a source took so long that this one was never made; the source is responsive."""


class SourceHungError(AutopilotError):
    """A source's call has not returned in time; its thread is still inside the driver."""
