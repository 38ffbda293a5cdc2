"""Settings of the agent and the recorder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from accelerator_autopilot.runtime.settings import DatabaseSettings, ServiceSettings


class DeviceMetricsSettings(ServiceSettings):
    """How devices are exported as metrics by the agent and the recorder."""

    dcgm_names: bool = Field(False, description="also export devices under dcgm-exporter's names and labels")
    device_metrics_limit: int = Field(1000, ge=0, description="most devices exported on /metrics and over OTLP")
    otlp_metrics_endpoint: str | None = Field(
        None, description="OTLP/HTTP endpoint for device metrics; none switches it off"
    )


class AgentSettings(DeviceMetricsSettings):
    """The agent on every node."""

    period_s: float = Field(1.0, ge=0.1, le=60, description="time between samples")
    inventory_period_s: float = Field(
        30.0, gt=0, le=60, description="longest time between inventories; a change is published at once"
    )
    simulate: int = Field(0, ge=0, le=1024, description="number of simulated GPUs")
    simulate_seed: int = Field(0, description="random seed of the simulated GPUs")
    replay_file: Path | None = Field(None, description="file of recorded frames to play back as devices")
    nvml: bool = Field(True, description="look for NVIDIA GPUs")
    other_accelerators: bool = Field(True, description="look for AMD, Intel, Apple and Jetson devices")
    cpu: Literal["auto", "always", "never"] = Field(
        "auto", description="report CPU packages; auto only where there is no other device"
    )
    scrape_urls: str = Field("", description="comma-separated URLs of exporters' metrics pages to publish as devices")
    scrape_hostnames: bool = Field(
        True, description="assign devices of metrics pages to the hosts named there; false: to this node"
    )
    expected_devices: int = Field(
        0, ge=0, le=1024, description="GPUs that this node must have; fewer open an alert; 0 switches the check off"
    )
    kernel_log: bool = Field(True, description="also read XIDs from the kernel log")
    source_timeout_s: float = Field(3.0, gt=0, description="time after which a driver call counts as hung")
    frame_buffer: int = Field(3600, ge=1, description="frames buffered while NATS is unreachable")


class RecorderSettings(DeviceMetricsSettings, DatabaseSettings):
    """The recorder."""

    recorder_device_metrics: bool = Field(
        False, description="export devices from the recorder as well; agents already do"
    )
    frame_batch: int = Field(4000, ge=1, le=20_000, description="most frames written in one transaction")
    frame_linger_s: float = Field(0.2, ge=0, le=5, description="time that an incomplete batch of frames waits for more")
    record_batch: int = Field(
        500, ge=1, le=10_000, description="most messages of other streams written in one transaction"
    )
    retention_days: int = Field(30, ge=1, description="days that samples are kept")
    retention_1m_days: int = Field(180, ge=1, description="days that one-minute aggregates are kept")
    retention_1h_days: int = Field(1825, ge=1, description="days that hourly aggregates are kept")
    retention_jobs_days: int = Field(365, ge=1, description="days that jobs, dead letters and processes are kept")
    retention_records_days: int = Field(
        730, ge=1, description="days that events, resolved alerts, commands, outcomes and recommendations are kept"
    )
    retention_audit_days: int = Field(2555, ge=1, description="days that the audit is kept")
    retention_pipeline_days: int = Field(7, ge=1, description="days that the recorders' own statistics are kept")
    partition_hours: int = Field(24, ge=1, le=24, description="hours per native partition; use fewer for large fleets")
    price_per_kwh: float = Field(0.25, ge=0, description="price of one kWh, in the currency of the dashboards")
    co2_g_per_kwh: float = Field(400.0, ge=0, description="grams of CO2 emitted per kWh at the fleet's location")
