"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from accelerator_autopilot.runtime.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """The HTTP door."""

    gateway_host: str = Field("127.0.0.1", description="address to listen on")
    gateway_port: int = Field(8080, ge=1, le=65535, description="port to listen on")
    api_keys_file: Path = Field(
        Path("api_keys.json"),
        description="JSON object of SHA-256 of each key to its role (viewer, operator, admin), or to role and user; "
        "read again when it changes",
    )
    jobs_per_minute: int = Field(60_000, ge=1, description="jobs that one key may submit in a minute")
    unfinished_jobs: int = Field(100_000, ge=1, description="jobs without a result that one key may have")
    fair_share_jobs: int = Field(
        1_000, ge=1, description="a key's unfinished jobs beyond these queue one priority lower"
    )
    queue_limit: int = Field(500_000, ge=1, description="jobs in the queue, above which no more are taken")
    max_body_bytes: int = Field(
        64 * 2**20, ge=1024, description="largest request body where jobs are submitted; 1 MiB elsewhere"
    )
    request_memory_bytes: int = Field(
        512 * 2**20, ge=2**20, description="memory that request bodies may take together, by estimate; more get a 503"
    )
    connections: int = Field(1_000, ge=10, description="connections at once; more get a 503")
    requests_per_key: int = Field(
        500, ge=1, description="requests under way that one key's user may have, streams among them; more get a 429"
    )
    streams_per_key: int = Field(20, ge=1, description="streams that one key may follow at once")
