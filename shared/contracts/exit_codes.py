"""Exit codes of the command line and of the programs that it starts; docs/reference/command-line.md describes them."""

from __future__ import annotations

from enum import IntEnum

from accelerator_autopilot.contracts.errors import (
    AutopilotError,
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SettingsError,
    UnavailableError,
)


class ExitCode(IntEnum):
    """What a script can tell from how a program ended."""

    OK = 0
    FAILED = 1  # the job, command or check failed
    USAGE = 2  # an option, argument, input or setting is wrong
    UNREACHABLE = 3  # nothing runs there, or it does not answer
    NOT_FOUND = 4
    CONFLICT = 5  # it already exists or ended, or something else holds it
    BUSY = 6  # no room for now: try again later
    TIMED_OUT = 7  # it may still happen
    INTERRUPTED = 130  # Ctrl-C, as shells number it


# The first match applies: derived classes precede their bases.
_CODES: tuple[tuple[type[AutopilotError], ExitCode], ...] = (
    (InvalidInputError, ExitCode.USAGE),
    (SettingsError, ExitCode.USAGE),
    (NotFoundError, ExitCode.NOT_FOUND),
    (ConflictError, ExitCode.CONFLICT),
    (BusyError, ExitCode.BUSY),
    (UnavailableError, ExitCode.UNREACHABLE),
)


def exit_code(error: AutopilotError) -> ExitCode:
    """Return the exit code of a program for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)
