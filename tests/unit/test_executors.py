"""Kubernetes against an API server that answers as the real one, Docker against an engine in memory, KEDA over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from aiohttp import web
from docker.errors import APIError
from kubernetes_asyncio import client

from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import ScaleCommand
from accelerator_autopilot.scheduler.executors.app import ScaleCommands
from accelerator_autopilot.scheduler.executors.docker import COPY_LABEL, DockerExecutor
from accelerator_autopilot.scheduler.executors.keda_scaler import MESSAGES, SERVICE, ExternalScaler, serve
from accelerator_autopilot.scheduler.executors.kubernetes import KubernetesExecutor
from accelerator_autopilot.scheduler.executors.ports import ExecutorError
from accelerator_autopilot.transport.clock import utc_now
from tests.contract.examples import COMMAND


class FakeApiServer:
    """Deployments of one namespace: lists by label, reads and patches their scale, refuses what RBAC would."""

    def __init__(self) -> None:
        self.deployments = {"workers-a": ("a", 2), "workers-b": ("b", 1), "other-b": ("b", 1)}
        self.forbidden = False
        self.bodies: list[Any] = []

    def app(self) -> web.Application:
        app = web.Application()
        base = "/apis/apps/v1/namespaces/{namespace}/deployments"
        app.add_routes([
            web.get(base, self.list), web.get(base + "/{name}/scale", self.read),
            web.patch(base + "/{name}/scale", self.patch),
        ])  # fmt: skip
        return app

    async def list(self, request: web.Request) -> web.Response:
        label, _, pool = request.query["labelSelector"].partition("=")
        items = [
            {"metadata": {"name": name}, "spec": {"selector": {}, "template": {}}}
            for name, (its, _) in self.deployments.items()
            if (label, its) == ("autopilot.pool", pool) and request.match_info["namespace"] == "gpu"
        ]
        return web.json_response({"apiVersion": "apps/v1", "kind": "DeploymentList", "metadata": {}, "items": items})

    def _scale(self, name: str) -> web.Response:
        replicas = self.deployments[name][1]
        body = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}}
        return web.json_response(body | {"spec": {"replicas": replicas}, "status": {"replicas": replicas}})

    async def read(self, request: web.Request) -> web.Response:
        return self._scale(request.match_info["name"])

    async def patch(self, request: web.Request) -> web.Response:
        if self.forbidden:
            return web.json_response({"kind": "Status", "code": 403, "reason": "Forbidden"}, status=403)
        name, body = request.match_info["name"], await request.json()
        self.bodies.append(body)
        self.deployments[name] = (self.deployments[name][0], body["spec"]["replicas"])
        return self._scale(name)


@pytest.fixture
async def cluster() -> AsyncIterator[tuple[FakeApiServer, KubernetesExecutor]]:
    server = FakeApiServer()
    runner = web.AppRunner(server.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api = client.ApiClient(client.Configuration(host=f"http://{host}:{port}"))
    executor = KubernetesExecutor(api, "gpu", "autopilot.pool")
    yield server, executor
    await executor.close()
    await runner.cleanup()


class TestKubernetes:
    async def test_only_the_scale_of_the_labelled_deployment_is_patched(
        self, cluster: tuple[FakeApiServer, KubernetesExecutor]
    ) -> None:
        server, executor = cluster
        assert await executor.replicas("a") == 2
        assert await executor.scale("a", 5) == 5
        assert server.bodies == [{"spec": {"replicas": 5}}]
        assert server.deployments["workers-b"] == ("b", 1)

    async def test_what_cannot_be_done_says_what_to_do(self, cluster: tuple[FakeApiServer, KubernetesExecutor]) -> None:
        server, executor = cluster
        with pytest.raises(ExecutorError, match=r"0 Deployments with autopilot\.pool=nowhere"):
            await executor.scale("nowhere", 1)
        with pytest.raises(ExecutorError, match="2 Deployments"):
            await executor.scale("b", 1)
        server.forbidden = True
        with pytest.raises(ExecutorError, match="pool a in gpu: 403"):
            await executor.scale("a", 1)


class FakeContainer:
    def __init__(self, engine: FakeEngine, labels: dict[str, str], created: str) -> None:
        self.engine, self.labels = engine, labels
        self.attrs = {
            "Created": created,
            "Config": {"Image": "autopilot:1", "Cmd": ["pool"], "Env": ["AUTOPILOT_POOL=a"]},
            "HostConfig": {"NetworkMode": "fleet", "Binds": ["/m:/m"], "DeviceRequests": None, "Memory": 0},
        }

    def stop(self, timeout: int) -> None:
        assert timeout > 30, "a worker needs its time to drain"
        self.engine.running.remove(self)

    def remove(self) -> None:
        assert self not in self.engine.running


class FakeEngine:
    """As much of docker.DockerClient as is used."""

    def __init__(self) -> None:
        self.running = [FakeContainer(self, {"autopilot.pool": "a"}, "2026-01-01T00:00:00Z")]
        self.containers, self.full, self.started = self, False, []

    def list(self, filters: dict[str, str]) -> list[FakeContainer]:
        label, _, pool = filters["label"].partition("=")
        return [c for c in self.running if c.labels.get(label) == pool]

    def run(self, image: str, **more: Any) -> None:
        if self.full:
            raise APIError("no space left")
        self.started.append((image, more))
        self.running.append(FakeContainer(self, more["labels"], f"2026-01-02T00:00:0{len(self.started)}Z"))

    def close(self) -> None:
        self.running = []


class TestDocker:
    async def test_copies_come_and_go_and_the_operators_container_stays(self) -> None:
        engine = FakeEngine()
        executor = DockerExecutor(engine, "autopilot.pool")
        first = engine.running[0]
        assert await executor.scale("a", 3) == 3
        image, given = engine.started[0]
        assert (image, given["environment"], given["network"]) == ("autopilot:1", ["AUTOPILOT_POOL=a"], "fleet")
        assert await executor.scale("a", 2) == 2
        assert [c.labels.get(COPY_LABEL) for c in engine.running] == [None, "1"], "the youngest goes first"
        assert await executor.scale("a", 0) == 1
        assert engine.running == [first]

    async def test_an_engine_that_refuses_and_a_pool_that_is_not_there(self) -> None:
        engine = FakeEngine()
        engine.full = True
        with pytest.raises(ExecutorError, match="pool a: no space"):
            await DockerExecutor(engine, "autopilot.pool").scale("a", 2)
        with pytest.raises(ExecutorError, match=r"autopilot\.pool=b"):
            await DockerExecutor(engine, "autopilot.pool").scale("b", 2)


class TestScaleCommands:
    class Counting:
        async def scale(self, pool: str, replicas: int) -> int:
            if replicas > 8:
                raise ExecutorError("quota")
            return replicas

    def command(self, **more: Any) -> ScaleCommand:
        fresh = {"id": new_id(), "at": utc_now(), "expires_at": utc_now() + timedelta(seconds=30)}
        return ScaleCommand.model_validate(COMMAND | fresh | {"pool": "a", "replicas": 3} | more)

    async def test_outcomes_tell_what_was_read_back_or_why_not(self) -> None:
        commands = ScaleCommands(self.Counting())  # type: ignore[arg-type]
        done = await commands.carry_out(self.command(fencing_token=7))
        assert (done.status, done.read_back) == ("applied", 3.0)
        old = await commands.carry_out(self.command(fencing_token=6))
        assert (old.status, "older than 7" in old.detail) == ("refused", True)
        late = await commands.carry_out(self.command(expires_at=utc_now()))
        assert late.status == "expired"
        refused = await commands.carry_out(self.command(replicas=9, fencing_token=8))
        assert (refused.status, refused.detail) == ("refused", "quota")


class TestExternalScaler:
    async def ask(self, channel: grpc.aio.Channel, method: str, request: Any, reply: str) -> Any:
        call = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=MESSAGES[reply].FromString,
        )
        return await call(request)

    async def test_keda_is_told_what_the_scheduler_wants(self) -> None:
        wanted = {"a": 3, "idle": 0}
        server, port = serve(ExternalScaler(wanted), "127.0.0.1:0")
        await server.start()
        ref = MESSAGES["ScaledObjectRef"](name="so", namespace="gpu", scalerMetadata={"pool": "a"})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert (await self.ask(channel, "IsActive", ref, "IsActiveResponse")).result
            spec = (await self.ask(channel, "GetMetricSpec", ref, "GetMetricSpecResponse")).metricSpecs[0]
            assert spec.targetSize == 1
            request = MESSAGES["GetMetricsRequest"](scaledObjectRef=ref, metricName=spec.metricName)
            value = (await self.ask(channel, "GetMetrics", request, "GetMetricsResponse")).metricValues[0]
            assert (value.metricName, value.metricValue) == (spec.metricName, 3)
            idle = MESSAGES["ScaledObjectRef"](name="idle", namespace="gpu")
            assert not (await self.ask(channel, "IsActive", idle, "IsActiveResponse")).result
            unknown = MESSAGES["ScaledObjectRef"](name="new", namespace="gpu")
            with pytest.raises(grpc.aio.AioRpcError, match="no decision about pool 'new'"):
                await self.ask(channel, "IsActive", unknown, "IsActiveResponse")
            stream = channel.unary_stream(
                f"/{SERVICE}/StreamIsActive",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=MESSAGES["IsActiveResponse"].FromString,
            )(ref)
            assert (await stream.read()).result
            wanted["a"] = 0
            assert not (await stream.read()).result
            stream.cancel()
        await server.stop(None)
