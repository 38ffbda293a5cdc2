"""One agent that reads exporters of several hosts; nodes that lose devices, hosts that leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accelerator_autopilot.contracts.frames import decode
from accelerator_autopilot.contracts.messages.telemetry import DeviceEvent, NodeInventory
from accelerator_autopilot.runtime.health import HealthState
from accelerator_autopilot.telemetry.agent.adapters.exporter_source import ExporterSource
from accelerator_autopilot.telemetry.agent.adapters.threaded_source import ThreadedSource
from accelerator_autopilot.telemetry.agent.application.sampling import Sampler, same_host
from accelerator_autopilot.telemetry.agent.domain.publish_buffer import FrameBuffer
from tests.support.builders import at, device
from tests.unit.test_exporter_pages import instances, line, usual
from tests.unit.test_fault_holding import Bench


class Agent:
    def __init__(self, *pages: str, url: str = "http://h/metrics", **more: Any) -> None:
        self.page = pages[0]
        self.inventories: list[NodeInventory] = []

        async def publish(*_: Any) -> None: ...

        async def put(inventory: NodeInventory) -> None:
            self.inventories.append(inventory)

        guarded = ThreadedSource(ExporterSource(url, lambda _: self.page), 5.0)
        self.sampler = Sampler("central", 1.0, [guarded], publish, put, HealthState("a"), FrameBuffer(100), **more)

    async def tick(self, page: str | None = None) -> None:
        self.page = page or self.page
        await self.sampler._tick()
        await self.sampler.discover_devices()
        await self.sampler.publish_inventory()

    def sent(self, pick: Callable[[Any], bool]) -> list[Any]:
        return [i for i in self.sampler.buffer if pick(i)]

    @property
    def events(self) -> list[DeviceEvent]:
        return [DeviceEvent.model_validate_json(i.body) for i in self.sent(lambda i: i.is_event)]

    def newest(self, node: str) -> NodeInventory:
        return [i for i in self.inventories if i.node == node][-1]


TWO_HOSTS = usual("GPU-a", Hostname="rack-1") + usual("GPU-b", Hostname="rack-2")


async def test_gpus_of_several_hosts_are_several_nodes() -> None:
    agent = Agent(TWO_HOSTS)
    await agent.tick()
    frames = {i.subject: decode(i.body, i.subject) for i in agent.sent(lambda i: not i.is_event)}
    assert {s: f.devices for s, f in frames.items()} == {
        "telemetry.frames.rack-1": ("GPU-a",), "telemetry.frames.rack-2": ("GPU-b",),
    }  # fmt: skip
    await agent.tick(TWO_HOSTS + line("DCGM_FI_DEV_XID_ERRORS", 79, "GPU-b", Hostname="rack-2"))
    assert [(e.node, e.device, e.code) for e in agent.events if e.kind == "xid"] == [("rack-2", "GPU-b", 79)]
    assert [d.device for d in agent.newest("rack-1").devices] == ["GPU-a"]
    assert agent.newest("rack-2").sources == {"scrape http://h/metrics": "ok", "scrape": "ok"}
    assert agent.newest("central").devices == []


async def test_a_page_that_fails_is_told_to_every_host_and_no_device_is_lost() -> None:
    agent = Agent(TWO_HOSTS)
    await agent.tick()
    for _ in range(5):
        await agent.tick("nonsense")
    assert {e.kind for e in agent.events} == {"appeared", "source_recovered", "source_failed"}
    assert agent.newest("rack-1").sources["scrape"] != "ok"
    assert [d.device for d in agent.newest("rack-2").devices] == ["GPU-b"]


async def test_a_reconfigured_gpu_lists_what_it_is_now() -> None:
    agent = Agent(instances(1, 2))
    await agent.tick()
    await agent.tick(instances(9))
    assert [d.device for d in agent.newest("rack-1").devices] == ["GPU-5f1c", "GPU-5f1c/9"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("rack-1", "rack-1.example.com", True), ("RACK-1", "rack-1", True), ("rack-1", "rack-10", False),
     ("10.0.0.1", "10.0.0.2", False), ("a.b", "a.c", False)],
)  # fmt: skip
def test_a_host_with_and_without_its_domain_is_one(one: str, other: str, same: bool) -> None:
    assert same_host(one, other) is same_host(other, one) is same


async def test_kernel_lines_find_gpus_of_this_machines_exporter_alone() -> None:
    here, elsewhere = Agent(usual(), url="http://127.0.0.1:9400/metrics"), Agent(usual())
    for agent in (here, elsewhere):
        await agent.tick()
    assert here.sampler.device_at("0000:5e:00") == "GPU-5f1c"
    assert elsewhere.sampler.device_at("0000:5e:00") is None


class TestGhosts:
    async def test_instances_that_are_no_more_end_with_all_their_alerts(self) -> None:
        bench, sources = Bench(), {"sources": {"scrape http://h": "ok", "scrape": "ok"}, "source": "scrape"}
        await bench.inventory("gpu", "gpu/1", "gpu/2", **sources)
        await bench.frames(3, {"power_w": 100.0}, ("gpu", "gpu/1", "gpu/2"))
        for name in ("gpu/1", "gpu/2"):
            await bench.event("lost", device=name)
            await bench.event("xid", device=name, code=79)
        await bench.until(bench.now + 30.0)
        again = bench.restarted()
        for _ in range(6):
            again.now += 15.0
            await again.inventory("gpu", **sources)
        assert [a.device for a in again.detection.book.open_alerts if a.kind != "agent_silent"] == []

    async def test_a_host_that_left_is_not_silent_for_ever(self) -> None:
        bench = Bench()
        await bench.inventory("gpu", source="scrape", sources={"scrape": "ok"})
        await bench.frames(3, {"power_w": 100.0}, ("gpu",))
        await bench.until(60.0)
        assert "agent_silent" in {a.kind for a in bench.detection.book.open_alerts}
        for _ in range(6):
            bench.now += 15.0
            await bench.inventory(source="scrape", sources={"scrape": "ok"})
            await bench.detection.on_time(at(bench.now))
        assert bench.detection.book.open_alerts == []


class TestExpected:
    async def listed(self, bench: Bench, count: int, expected: int, **more: Any) -> None:
        listed = [device(device=f"g{n}", source="nvml", simulated=False, vendor="nvidia") for n in range(count)]
        listed += [device(device="cpu-0", source="cpu", simulated=False, vendor="cpu"), device(device="sim")]
        listed += [device(device="m", source="nvml", simulated=False, vendor="nvidia", parent="g0")]
        base = {"node": "n1", "at": at(bench.now), "period_s": 1.0, "sources": {"nvml": "ok"}, "devices": listed}
        told = NodeInventory.model_validate(base | {"expected_devices": expected} | more)
        await bench.detection.on_inventory(told)

    @pytest.mark.parametrize(("there", "expected", "told"), [(7, 8, True), (8, 8, False), (0, 1, True), (3, 0, False)])
    async def test_fewer_gpus_than_there_must_be_is_told(self, there: int, expected: int, told: bool) -> None:
        bench = Bench()
        for _ in range(4):
            await self.listed(bench, there, expected)
            bench.now += 30.0
        assert bench.critical == (["node devices_missing"] if told else [])
        if told:
            assert f"{there} of {expected}" in bench.told[0].summary
            await self.listed(bench, expected, expected)
            assert bench.critical == []

    async def test_a_driver_that_loads_within_a_while_is_waited_for(self) -> None:
        bench = Bench()
        await self.listed(bench, 0, 8)
        bench.now = 30.0
        await self.listed(bench, 8, 8)
        bench.now = 90.0
        await self.listed(bench, 8, 8)
        assert bench.told == []

    async def test_the_agent_tells_the_setting(self) -> None:
        agent = Agent(usual(), expected_devices=8)
        await agent.tick()
        told = {i.node: i.expected_devices for i in agent.inventories}
        assert told == {"central": 8, "rack-1": 0}
