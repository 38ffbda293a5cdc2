"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """The HTTP door."""

    gateway_host: str = Field("127.0.0.1", description="address to listen on")
    gateway_port: int = Field(8080, ge=1, le=65535, description="port to listen on")
    api_keys_file: Path = Field(
        Path("api_keys.json"),
        description="JSON object of SHA-256 of each key to its role: viewer, operator or admin",
    )
    max_body_bytes: int = Field(64 * 2**20, ge=1024, description="largest request body")
