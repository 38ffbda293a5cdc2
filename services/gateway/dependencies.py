"""Dependencies of the gateway's routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import UnavailableError


def client(request: Request) -> AutopilotClient:
    """Return the connected client, acting for the key's user. Raises UnavailableError while NATS is unreachable."""
    autopilot: AutopilotClient = request.app.state.client
    if not autopilot.connected:
        raise UnavailableError("the gateway is not connected to NATS; try again later")
    return autopilot.acting_as(request.state.caller.user, request.state.caller.project)


Autopilot = Annotated[AutopilotClient, Depends(client)]
