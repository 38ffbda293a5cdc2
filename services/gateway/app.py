"""The HTTP door: which path goes to which function."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, Counter

from services.gateway import problems
from services.gateway.admission import Admission, Quota
from services.gateway.auth import load_keys
from services.gateway.routes import alerts, batches, dead, fleet, jobs, openai
from services.gateway.settings import GatewaySettings
from shared import subjects
from shared.client import AutopilotClient
from shared.errors import UnavailableError
from shared.health import HealthServer, HealthState
from shared.settings import load
from shared.streams import ensure


def create_app(settings: GatewaySettings | None = None) -> FastAPI:
    """The gateway. Raises SettingsError when the keys cannot be read."""
    settings = settings or load(GatewaySettings)
    health, registry = HealthState("gateway"), CollectorRegistry()
    quota = Quota(settings.jobs_per_minute, settings.unfinished_jobs, settings.fair_share_jobs)
    admission = Admission(quota, settings.queue_limit)
    requests = Counter("autopilot_http_requests", "requests", ["method", "route", "status"], registry=registry)

    async def watch(client: AutopilotClient) -> None:
        while True:
            health.tick()
            health.report("nats", ok=client.connected, reason="not connected")
            await asyncio.sleep(0.5)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = HealthServer(health, registry, settings.health_host, settings.health_port)
        server.start()
        client = AutopilotClient(settings, name="gateway", actor="api")
        while True:
            try:
                await client.__aenter__()
                break
            except UnavailableError as error:
                health.tick()
                health.report("nats", ok=False, reason=str(error))
                await asyncio.sleep(0.5)
        await ensure(client.js, settings.stream_replicas)
        app.state.client = client

        async def on_result(message: Msg) -> None:
            identity = subjects.job_id(message.subject.split(".")[1:])
            admission.finished(identity, asyncio.get_running_loop().time())

        await client.nc.subscribe("results.>", cb=on_result)
        task = asyncio.create_task(watch(client))
        health.report("started", ok=True)
        yield
        task.cancel()
        await client.__aexit__(None, None, None)
        server.stop()

    app = FastAPI(
        title="Accelerator Autopilot",
        version=importlib.metadata.version("accelerator-autopilot"),
        lifespan=lifespan,
        description="Submit jobs, follow them, read the fleet and steer it.",
    )
    app.state.admission = admission
    app.state.keys = load_keys(settings.api_keys_file)
    problems.install(app)
    for module in (jobs, batches, dead, openai, fleet, alerts):
        app.include_router(module.router)

    @app.middleware("http")
    async def measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > settings.max_body_bytes:
            return problems.problem(413, f"the body may have {settings.max_body_bytes} bytes")
        response = await call_next(request)
        route = getattr(request.scope.get("route"), "path", "unknown")
        requests.labels(request.method, route, response.status_code).inc()
        return response

    return app
