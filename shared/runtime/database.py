"""The asyncpg pool, and migrations by Alembic under an advisory lock.

Alembic and SQLAlchemy take 25 MB and are needed once: a service that has to migrate does it in a separate process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import asyncpg

from accelerator_autopilot.contracts.errors import UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[Any]"

MIGRATIONS = Path(__file__).parent / "migrations"
# An unused connection is a server process of some megabytes.
IDLE_S = 30.0
_LOCK = 0x6175746F  # an arbitrary number that all recorders share
# A connection that the server closes while a query is being sent can fail inside asyncpg's own state machine.
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
    """Create a pool whose statements time out after `timeout_s`.

    Raises UnavailableError when the server does not answer.
    """
    try:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            command_timeout=timeout_s,
            timeout=5,
            statement_cache_size=statement_cache,
            max_inactive_connection_lifetime=IDLE_S,
        )
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"the database does not respond: {type(error).__name__}: {error}") from error


async def with_connection(pool: asyncpg.Pool[Any], work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
    """Return what `work` returns, given a connection. When cancelled, it ends at once and closes the connection.

    asyncpg alone would roll back first, and wait for a frozen server as long as a statement may take.
    """
    async with pool.acquire() as connection:
        working = asyncio.create_task(work(connection))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            if not working.done():
                connection.terminate()
                await asyncio.gather(working, return_exceptions=True)
            raise


CLOSED_WITHIN_S = 2.0


@asynccontextmanager
async def database(dsn: str, *, size: int = 1) -> AsyncIterator[asyncpg.Pool[Any]]:
    """Yield a pool for a few queries. Any database error inside is raised as UnavailableError."""
    pool = await connect_pool(dsn, size=size)
    try:
        yield pool
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"the database failed: {type(error).__name__}: {error}") from error
    finally:
        await _close(pool)


async def _close(pool: asyncpg.Pool[Any]) -> None:
    """Close the pool, without waiting long for a hung server."""
    try:
        async with asyncio.timeout(CLOSED_WITHIN_S):
            await pool.close()
    except DATABASE_ERRORS:
        pool.terminate()


async def migrate(dsn: str) -> None:
    """Migrate the schema to the newest version; safe to call concurrently. Raises UnavailableError."""
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415  see above

    async def connect() -> asyncpg.Connection[Any]:
        return await asyncpg.connect(dsn, timeout=5, statement_cache_size=0)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            await connection.run_sync(_upgrade)
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"the migration failed: {type(error).__name__}: {error}") from error
    finally:
        await engine.dispose()


def _upgrade(connection: Any) -> None:
    from alembic import command  # noqa: PLC0415  see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def newest_version() -> str:
    """Return the schema version that this code needs."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


async def is_migrated(dsn: str) -> bool:
    """Whether the schema has the newest version. Raises UnavailableError."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5, command_timeout=5, statement_cache_size=0)
        try:
            return bool(await connection.fetchval("SELECT version_num FROM alembic_version") == newest_version())
        finally:
            await connection.close(timeout=CLOSED_WITHIN_S)
    except asyncpg.UndefinedTableError:
        return False
    except DATABASE_ERRORS as error:
        raise UnavailableError(f"the schema version could not be read: {type(error).__name__}: {error}") from error


async def _migrate_apart(dsn: str) -> None:
    """Migrate in a separate process. Raises UnavailableError."""
    # Arguments of a process are public, its environment is not.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "accelerator_autopilot.runtime.migrate",
        env=os.environ | {"AUTOPILOT_DATABASE_URL": dsn},
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        last = stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise UnavailableError(last[:500] or f"the migration ended with exit code {process.returncode}")


async def wait_until_migrated(dsn: str) -> None:
    """Migrate, waiting while the server is unreachable."""
    while True:
        try:
            if not await is_migrated(dsn):
                await _migrate_apart(dsn)
        except UnavailableError as error:
            log.warning("waiting for the database", extra={"error": str(error)})
            await asyncio.sleep(1.0)
        else:
            return
