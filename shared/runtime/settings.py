"""Settings that all processes share; each service adds its own fields to `ServiceSettings`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from accelerator_autopilot.contracts.messages.base import Name
from accelerator_autopilot.runtime.renamed_settings import renamed
from accelerator_autopilot.transport.settings import NatsSettings

S = TypeVar("S", bound=BaseSettings)


class ServiceSettings(NatsSettings):
    """Settings that every service has."""

    node: Name = Field(default_factory=socket.gethostname, description="name of this node")
    health_host: str = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    health_port: int = Field(0, ge=0, le=65535, description="port of these pages; 0 picks a free one")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="lowest level that is logged")
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP endpoint for traces; none switches tracing off")
    data_dir: Path = Field(Path(".autopilot"), description="folder for local state")
    run_as: str = Field(
        "auto",
        pattern=r"^([A-Za-z_][A-Za-z0-9_.-]*|\d{1,10}(:\d{1,10})?)$",
        description="user that a service started as root becomes: auto, name, uid[:gid] or root; the agent stays root",
    )


class DatabaseSettings(BaseSettings):
    """How to reach PostgreSQL."""

    model_config = SettingsConfigDict(env_prefix="AUTOPILOT_", extra="ignore", frozen=True)

    database_url: SecretStr = Field(
        SecretStr("postgresql://postgres@127.0.0.1:5432/postgres"), description="asyncpg DSN"
    )
    database_statement_cache: int = Field(
        100,
        ge=0,
        le=10_000,
        description="prepared statements cached per connection; 0 behind PgBouncer in transaction mode",
    )
    database_timeout_s: float = Field(
        60.0, ge=1, le=900, description="time after which an unanswered statement is cancelled and retried"
    )


def load(settings: type[S]) -> S:
    """Read settings from the environment; on a bad value print a line per field and exit with 2."""
    old = renamed(os.environ)
    if old:
        sys.stderr.write("\n".join(old) + "\n")
        raise SystemExit(2)
    try:
        return settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "AUTOPILOT_" + "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{name}={problem['input']!r}: {problem['msg']}\n")
        raise SystemExit(2) from None
