"""The client library: submit jobs, follow them, read the fleet and steer it, all over NATS."""

from accelerator_autopilot.client.connection import AutopilotClient
from accelerator_autopilot.client.sync import SyncAutopilot

__all__ = ["AutopilotClient", "SyncAutopilot"]
