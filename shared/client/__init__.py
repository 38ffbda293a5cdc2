"""The client: submit jobs, follow them, read the fleet and control it, all over NATS.

Programs use `accelerator_autopilot.connect` or `connect_async`. `AutopilotClient` is the layer below, which the
services use themselves.
"""

from accelerator_autopilot.client.autopilot_client import AutopilotClient

__all__ = ["AutopilotClient"]
