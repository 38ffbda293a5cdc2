"""The end of a process: asked for once it ends by itself, and in any case within a time; asked for twice at once."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

EXIT_STUCK = 70
# What a service has to end by itself once it is asked to; a pool, whose workers finish what they run, has more.
GRACE_S = 12.0


class Ending:
    """Counts how often a process was asked to end, and sees to it that it does, also when its event loop is stuck."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self.asked = False

    def ask(self) -> bool:
        """True the first time, after which the process has its grace to end; the second time it ends at once."""
        if self.asked:
            end_asked("asked to end again")
        self.asked = True
        timer = threading.Timer(self._grace_s, end_asked, [f"not ended by itself in {self._grace_s:.0f} s"])
        timer.daemon = True
        timer.start()
        return True


def end_asked(reason: str) -> None:
    """End a process that was asked to, at once and with 0."""
    # What matters is in streams and files by now; the rest waits for a server that does not answer.
    log.warning("ending at once", extra={"reason": reason})
    os._exit(0)


def end_stuck(reason: str) -> None:
    """End a process that cannot get on, at once and with EXIT_STUCK, so that whoever supervises it starts it again."""
    log.critical("ending, to be started again", extra={"reason": reason})
    os._exit(EXIT_STUCK)
