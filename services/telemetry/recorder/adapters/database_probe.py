"""Check on a separate connection whether the database accepts writes: a stuck write reports nothing for a long time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg

from accelerator_autopilot.runtime.database import DATABASE_ERRORS
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.runtime.supervision import beat

log = logging.getLogger(__name__)

Connection: TypeAlias = "asyncpg.Connection[Any]"

PERIOD_S = 2.0
ANSWER_S = 3.0
# A write that changes nothing; a read-only server rejects it.
_WRITE = "UPDATE factors SET value = value"


class DatabaseProbe:
    """Updates readiness under `database` within seconds when the server is unreachable, hangs or rejects writes."""

    def __init__(self, dsn: str, health: HealthState) -> None:
        self._dsn, self._health = dsn, health
        self._connection: Connection | None = None
        self._well = True

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                beat()
                await self._ask()
                await asyncio.sleep(PERIOD_S)
        finally:
            self._drop()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._connection is None:
                    self._connection = await asyncpg.connect(self._dsn, timeout=ANSWER_S, statement_cache_size=0)
                await self._connection.execute(_WRITE)
        except TimeoutError:
            self._report(f"no answer to a write in {ANSWER_S:g} s")
        except DATABASE_ERRORS as error:
            self._report(f"{type(error).__name__}: {error}")
        else:
            self._report("")

    def _report(self, problem: str) -> None:
        if problem:
            self._drop()
        if self._well == bool(problem):
            self._well = not problem
            if problem:
                log.warning("the database does not accept writes", extra={"reason": problem})
            else:
                log.info("the database accepts writes again")
        self._health.report("database", ok=not problem, reason=problem)

    def _drop(self) -> None:
        """Close the connection without waiting for a server that may not respond."""
        if self._connection is not None:
            with suppress(*DATABASE_ERRORS):
                self._connection.terminate()
            self._connection = None
