"""Settings of a connection to NATS."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class NatsSettings(BaseSettings):
    """How to reach NATS."""

    model_config = SettingsConfigDict(env_prefix="AUTOPILOT_", extra="ignore", frozen=True)

    nats_url: str = Field("nats://127.0.0.1:4222", description="comma-separated URLs of the NATS servers")
    nats_user: str | None = Field(None, description="user name, if the server requires one")
    nats_password: SecretStr | None = Field(None, description="password of nats_user")
    nats_token: SecretStr | None = Field(None, description="token, if the server requires one")
    nats_credentials: Path | None = Field(None, description=".creds file with JWT and seed")
    nats_ca: Path | None = Field(None, description="CA certificate file; switches TLS on")
    nats_certificate: Path | None = Field(None, description="client certificate file for mutual TLS")
    nats_key: Path | None = Field(None, description="private key file of nats_certificate")
    stream_replicas: int = Field(1, ge=1, le=5, description="copies of each stream; 3 in a cluster")
    results_mib: int = Field(
        16_384,
        ge=1,
        description="most space for results, in MiB; less on a small disk; must be equal for all services",
    )

    @property
    def servers(self) -> list[str]:
        """The URLs as a list."""
        return [url.strip() for url in self.nats_url.split(",") if url.strip()]
