"""The client library: submit jobs, follow them, read the fleet and steer it, all over NATS."""

from shared.client.connection import AutopilotClient
from shared.client.sync import SyncAutopilot

__all__ = ["AutopilotClient", "SyncAutopilot"]
