"""Which subject goes to which function, by FastStream's in-memory broker."""

from __future__ import annotations

from pathlib import Path

import pytest
from faststream.nats import TestNatsBroker

from services.telemetry.app import create_agent
from services.telemetry.settings import AgentSettings
from shared.messages.telemetry import SimulationReply, SimulationRequest


@pytest.fixture
def agent_settings(tmp_path: Path) -> AgentSettings:
    return AgentSettings(node="n.1", simulate=1, nvml=False, data_dir=tmp_path)


async def test_simulation_requests_reach_the_simulated_devices(agent_settings: AgentSettings) -> None:
    app = create_agent(agent_settings)
    async with TestNatsBroker(app.broker) as broker:
        request = SimulationRequest(device="sim-n.1-0", util=1.0)
        reply = await broker.request(request, "simulate.n=2E1", timeout=2)
        assert SimulationReply.model_validate_json(reply.body).ok
        unknown = await broker.request(SimulationRequest(device="nobody"), "simulate.n=2E1", timeout=2)
        assert "sim-n.1-0" in SimulationReply.model_validate_json(unknown.body).error
