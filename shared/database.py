"""The asyncpg pool, and migrations by Alembic under an advisory lock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine

from shared.errors import UnavailableError

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6175746F  # any number that all recorders share
# A connection that the server ends while a query is being sent can fail inside asyncpg's own state machine.
DATABASE_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


async def connect_pool(
    dsn: str, *, size: int = 4, statement_cache: int = 100, timeout_s: float = 60.0
) -> asyncpg.Pool[Any]:
    """A pool whose statements end within `timeout_s`. Raises UnavailableError when the server does not answer."""
    try:
        return await asyncpg.create_pool(
            dsn, min_size=1, max_size=size, command_timeout=timeout_s, timeout=5, statement_cache_size=statement_cache
        )
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"database does not answer: {type(error).__name__}: {error}") from error


CLOSED_WITHIN_S = 2.0


@asynccontextmanager
async def database(dsn: str, *, size: int = 1) -> AsyncIterator[asyncpg.Pool[Any]]:
    """A pool for a few queries. Whatever the database does or fails to do inside, it raises UnavailableError."""
    pool = await connect_pool(dsn, size=size)
    try:
        yield pool
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"database failed: {type(error).__name__}: {error}") from error
    finally:
        await _close(pool)


async def _close(pool: asyncpg.Pool[Any]) -> None:
    """Say goodbye; to a server that stands still nobody says it for long."""
    try:
        async with asyncio.timeout(CLOSED_WITHIN_S):
            await pool.close()
    except DATABASE_ERRORS:
        pool.terminate()


async def migrate(dsn: str) -> None:
    """Bring the schema to the newest version; safe to call from several processes at once."""

    async def connect() -> asyncpg.Connection[Any]:
        return await asyncpg.connect(dsn, timeout=5, statement_cache_size=0)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            await connection.run_sync(_upgrade)
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"migration failed: {type(error).__name__}: {error}") from error
    finally:
        await engine.dispose()


def _upgrade(connection: Any) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def wait_until_migrated(dsn: str) -> None:
    """Migrate, waiting as long as the server is away."""
    while True:
        try:
            await migrate(dsn)
        except UnavailableError as error:
            log.warning("waiting for the database", extra={"error": str(error)})
            await asyncio.sleep(1.0)
        else:
            return
