"""Process shutdown: graceful within a time limit when asked once, immediate when asked twice."""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger(__name__)

EXIT_STUCK = 70
# The grace period of a service; a pool, whose workers finish running jobs, has more.
GRACE_S = 12.0


class Ending:
    """Counts shutdown requests, and enforces the grace period even when the event loop is blocked."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self.asked = False

    def ask(self) -> bool:
        """Return True the first time, after which the grace period runs; the second time exit immediately."""
        if self.asked:
            end_asked("shutdown requested again")
        self.asked = True
        timer = threading.Timer(self._grace_s, end_asked, [f"shutdown did not finish within {self._grace_s:.0f} s"])
        timer.daemon = True
        timer.start()
        return True


def end_asked(reason: str) -> None:
    """Exit immediately with 0: shutdown was requested."""
    # Everything important is in streams and files by now; the rest waits for a server that does not answer.
    log.warning("exiting immediately", extra={"reason": reason})
    os._exit(0)


def end_stuck(reason: str) -> None:
    """Exit immediately with EXIT_STUCK, so that the supervisor restarts the process."""
    log.critical("exiting to be restarted", extra={"reason": reason})
    os._exit(EXIT_STUCK)
