"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from accelerator_autopilot.runtime.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """The HTTP gateway."""

    gateway_host: str = Field("127.0.0.1", description="address to listen on")
    gateway_port: int = Field(8080, ge=1, le=65535, description="port to listen on")
    api_keys_file: Path = Field(
        Path("api_keys.json"),
        description="JSON object that maps the SHA-256 of each key to its role (viewer, operator or admin), or to an "
        "object with role and user; reread when it changes",
    )
    jobs_per_minute: int = Field(60_000, ge=1, description="jobs that one key may submit per minute")
    unfinished_jobs: int = Field(100_000, ge=1, description="unfinished jobs that one key may have")
    fair_share_jobs: int = Field(
        1_000, ge=1, description="unfinished jobs per key beyond which its jobs get the next lower priority"
    )
    queue_limit: int = Field(500_000, ge=1, description="queued jobs above which submissions are refused with a 429")
    max_body_bytes: int = Field(
        64 * 2**20, ge=1024, description="largest request body of routes that submit jobs; other routes take 1 MiB"
    )
    request_memory_bytes: int = Field(
        512 * 2**20,
        ge=2**20,
        description="estimated memory for all request bodies together; requests beyond it get a 503",
    )
    connections: int = Field(1_000, ge=10, description="concurrent connections; further ones get a 503")
    requests_per_key: int = Field(
        500, ge=1, description="concurrent requests of one key's user, including streams; further ones get a 429"
    )
    streams_per_key: int = Field(20, ge=1, description="concurrent event streams of one key")
