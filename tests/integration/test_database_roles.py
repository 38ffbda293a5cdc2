"""The database's roles: the recorder's owns what it makes, the readers' reads all of it and changes none."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from accelerator_autopilot.runtime.database import migrate
from accelerator_autopilot.transport.clock import utc_now
from tests.support.grafana import as_sent, panel_queries

ROLES = (Path(__file__).resolve().parents[2] / "deploy" / "postgres" / "roles.sql").read_text()


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}:{role}@{parts.netloc.rpartition('@')[2]}"))


@pytest.mark.db
async def test_the_recorder_migrates_and_readers_read_but_change_nothing(database_url: str) -> None:
    superuser = await asyncpg.connect(database_url)
    for _ in range(2):
        await superuser.execute(ROLES)
    for role in ("autopilot_recorder", "autopilot_reader"):
        await superuser.execute(f"ALTER ROLE {role} PASSWORD '{role}'")
    await migrate(as_role(database_url, "autopilot_recorder"))
    reader = await asyncpg.connect(as_role(database_url, "autopilot_reader"))
    now = utc_now()
    for query in panel_queries():
        await reader.fetch(as_sent(query.sql, now, timedelta(hours=1), ["node-0"], "node-0", "GPU-1"))
    assert (await reader.fetchval("SHOW statement_timeout")) == "1min"
    for statement in (
        "INSERT INTO metrics_seen VALUES ('x')",
        "DELETE FROM jobs",
        "DROP TABLE alerts",
        "CREATE TABLE mine (x int)",
        "SET ROLE autopilot_recorder",
    ):
        await reader.execute("SET default_transaction_read_only = off")
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
            await reader.execute(statement)
    await reader.close()
    await superuser.close()
