"""Encode a telemetry frame without numpy, which an agent does not need otherwise and which costs 15 MB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgpack

from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT

SCHEMA_VERSION = 1
AGENT = "agent"
"""The actor of frames."""


def pack_frame(
    *,
    node: str,
    start_us: int,
    period_s: float,
    devices: Sequence[str],
    metrics: Sequence[str],
    ticks: int,
    block: bytes,
    sequence: int,
    epoch_us: int,
    simulated: Iterable[str] = (),
    schema_version: int = SCHEMA_VERSION,
    project: str = DEFAULT_PROJECT,
    actor: str = AGENT,
) -> bytes:
    """Encode as MessagePack; `block` is float32, little-endian, of shape [ticks, devices, metrics]."""
    body = {
        "v": schema_version,
        "node": node,
        "start_us": start_us,
        "period_s": period_s,
        "devices": list(devices),
        "metrics": list(metrics),
        "ticks": ticks,
        "values": block,
        "seq": sequence,
        "epoch_us": epoch_us,
        "simulated": sorted(simulated),
        "project": project,
        "actor": actor,
    }
    return bytes(msgpack.packb(body))
