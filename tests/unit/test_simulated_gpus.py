"""Simulated GPUs: their physics, and who may change them."""

from __future__ import annotations

from typing import Any

import pytest

from accelerator_autopilot.contracts.messages.jobs import PoolStatus, WorkerStatus
from accelerator_autopilot.contracts.messages.telemetry import SimulationRequest
from accelerator_autopilot.telemetry.agent.adapters.simulated_source import SimulatedSource
from accelerator_autopilot.telemetry.agent.application.command_handlers import Simulation
from accelerator_autopilot.telemetry.agent.domain.simulated_gpu import SimulatedGpu
from accelerator_autopilot.telemetry.agent.domain.simulated_models import A40, V100
from tests.support.builders import T0, at


class TestSimulatedGpu:
    @pytest.mark.parametrize("model", [V100, A40])
    def test_a_lower_cap_draws_less_and_runs_slower(self, model: Any) -> None:
        draws = [model.power_at(c) for c in model.sweep.cap_w]
        speeds = [model.speed_at(c) for c in model.sweep.cap_w]
        assert draws == sorted(draws)
        assert speeds == sorted(speeds)
        assert speeds[-1] == 1.0

    @pytest.mark.parametrize("model", [V100, A40])
    def test_full_load_stays_below_slowdown_and_runaway_does_not(self, model: Any) -> None:
        gpu = SimulatedGpu(model, util=1.0)
        for _ in range(600):
            gpu.advance(1.0)
        assert not gpu.throttled
        gpu.put_fault("thermal_runaway")
        for _ in range(30):
            gpu.advance(1.0)
        assert gpu.throttled
        assert int(gpu.read(0.0)["clock_event_reasons"]) & 0x40
        gpu.put_fault("none")
        gpu.util = 0.0
        for _ in range(60):
            gpu.advance(1.0)
        assert gpu.temp_c < 60

    def test_energy_is_the_integral_of_power(self) -> None:
        gpu = SimulatedGpu(V100, util=0.5)
        expected = sum(gpu.power_w() for _ in range(10))
        for _ in range(10):
            gpu.advance(1.0)
        assert gpu.energy_j == pytest.approx(expected)

    def test_a_frozen_sensor_repeats_itself(self) -> None:
        gpu = SimulatedGpu(V100, util=1.0)
        gpu.put_fault("frozen_sensor", 0.3)
        gpu.advance(10.0)
        assert gpu.read(1.0)["temp_c"] == gpu.read(-1.0)["temp_c"]


class TestSimulation:
    async def test_load_follows_the_time_that_workers_were_busy(self) -> None:
        source = SimulatedSource("n1", 2)
        simulation = Simulation("n1", source)

        def status(seconds: float, busy_s: float) -> PoolStatus:
            worker = WorkerStatus(worker="w", device="sim-n1-0", pid=1, state="ready", started_at=T0, busy_s=busy_s)
            return PoolStatus(pool="p", node="n1", at=at(seconds), desired=1, kinds=["echo"], workers=[worker])

        await simulation.on_pool(status(0, 0.0))
        await simulation.on_pool(status(2, 1.0))
        assert source.sample()["sim-n1-0"]["gpu_util_pct"] == pytest.approx(50)
        assert source.sample()["sim-n1-1"]["gpu_util_pct"] == 0

    async def test_an_unknown_device_is_an_error_that_names_those_there_are(self) -> None:
        reply = await Simulation("n1", SimulatedSource("n1", 1)).on_request(SimulationRequest(device="x", util=1.0))
        assert not reply.ok
        assert "sim-n1-0" in reply.error

    def test_xid_79_takes_the_device_off_the_bus(self) -> None:
        source = SimulatedSource("n1", 1)
        assert source.request(SimulationRequest(device="sim-n1-0", xid=79)) == ""
        assert source.sample() == {}
        assert [(e.kind, e.code) for e in source.poll_events()] == [("xid", 79)]
        assert source.poll_events() == []
