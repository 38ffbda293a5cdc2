"""Settings of the agent and the recorder."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.settings import DatabaseSettings, ServiceSettings


class AgentSettings(ServiceSettings):
    """The agent on every node."""

    period_s: float = Field(1.0, ge=0.1, le=60, description="time between samples")
    simulate: int = Field(0, ge=0, le=1024, description="number of simulated GPUs")
    simulate_seed: int = Field(0, description="seed of their noise")
    replay_file: Path | None = Field(None, description="recorded frames to play back as devices")
    nvml: bool = Field(True, description="look for NVIDIA GPUs")
    cpu: bool = Field(True, description="report the CPU when there is no GPU")
    source_timeout_s: float = Field(3.0, gt=0, description="a driver call longer than this counts as hung")
    frame_buffer: int = Field(3600, ge=1, description="frames kept while the broker is away")


class RecorderSettings(ServiceSettings, DatabaseSettings):
    """The recorder."""

    frame_batch: int = Field(500, ge=1, le=10_000, description="frames written in one transaction")
    record_batch: int = Field(500, ge=1, le=10_000, description="messages of other streams in one transaction")
    retention_days: int = Field(30, ge=1, description="age at which samples are dropped")
