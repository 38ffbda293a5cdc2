"""Settings of the agent and the recorder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from accelerator_autopilot.runtime.settings import DatabaseSettings, ServiceSettings


class DeviceMetricsSettings(ServiceSettings):
    """What both tell of devices to those who ask."""

    dcgm_names: bool = Field(False, description="give devices under dcgm-exporter's names and labels as well")
    device_metrics_limit: int = Field(1000, ge=0, description="devices on /metrics and in OTLP at most")
    otlp_metrics_endpoint: str | None = Field(None, description="OTLP/HTTP metrics endpoint for devices; none is off")


class AgentSettings(DeviceMetricsSettings):
    """The agent on every node."""

    period_s: float = Field(1.0, ge=0.1, le=60, description="time between samples")
    inventory_period_s: float = Field(
        30.0, gt=0, le=60, description="longest time between two inventories; at once on a change"
    )
    simulate: int = Field(0, ge=0, le=1024, description="number of simulated GPUs")
    simulate_seed: int = Field(0, description="seed of their noise")
    replay_file: Path | None = Field(None, description="recorded frames to play back as devices")
    nvml: bool = Field(True, description="look for NVIDIA GPUs")
    other_accelerators: bool = Field(True, description="look for AMD, Intel, Apple and Jetson devices")
    cpu: Literal["auto", "always", "never"] = Field(
        "auto", description="report CPU packages; auto: when nothing else is"
    )
    scrape_urls: str = Field("", description="comma-separated metrics pages of exporters to publish as devices")
    scrape_hostnames: bool = Field(
        True, description="devices of metrics pages belong to the hosts that the pages name; false: to this node"
    )
    expected_devices: int = Field(
        0, ge=0, le=1024, description="GPUs that this node must have, an alert when there are fewer; 0 does not look"
    )
    kernel_log: bool = Field(True, description="read XIDs from the kernel log as well")
    source_timeout_s: float = Field(3.0, gt=0, description="a driver call longer than this counts as hung")
    frame_buffer: int = Field(3600, ge=1, description="frames kept while the broker is away")


class RecorderSettings(DeviceMetricsSettings, DatabaseSettings):
    """The recorder."""

    recorder_device_metrics: bool = Field(
        False, description="give devices on the recorder's /metrics and over OTLP too: agents do so already"
    )
    frame_batch: int = Field(4000, ge=1, le=20_000, description="frames written in one transaction")
    frame_linger_s: float = Field(0.2, ge=0, le=5, description="time that a small batch of frames waits for more")
    record_batch: int = Field(500, ge=1, le=10_000, description="messages of other streams in one transaction")
    retention_days: int = Field(30, ge=1, description="age at which samples are dropped")
    retention_1m_days: int = Field(180, ge=1, description="age at which minutes are dropped")
    retention_1h_days: int = Field(1825, ge=1, description="age at which hours are dropped")
    retention_jobs_days: int = Field(365, ge=1, description="age at which jobs, dead jobs and processes are dropped")
    retention_records_days: int = Field(
        730, ge=1, description="age at which events, ended alerts, commands, outcomes and recommendations are dropped"
    )
    retention_audit_days: int = Field(2555, ge=1, description="age at which the audit is dropped")
    retention_pipeline_days: int = Field(7, ge=1, description="age at which the recorders' own figures are dropped")
    partition_hours: int = Field(24, ge=1, le=24, description="hours in one native partition; fewer for big fleets")
    price_per_kwh: float = Field(0.25, ge=0, description="price of a kWh, in whatever money the dashboards count")
    co2_g_per_kwh: float = Field(400.0, ge=0, description="grams of CO2 that a kWh causes where the fleet is")
