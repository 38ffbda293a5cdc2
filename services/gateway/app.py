"""The HTTP gateway's application: routes, middleware and background tasks."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.client.job_views import JobView
from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.failure_risk import Risk
from accelerator_autopilot.contracts.messages.alerts import Alert
from accelerator_autopilot.contracts.messages.audit import AuditRecord
from accelerator_autopilot.contracts.projects import parse_job_reference
from accelerator_autopilot.gateway.adapters.nats_connection import NatsConnection
from accelerator_autopilot.gateway.application.admission import Admission, Quota
from accelerator_autopilot.gateway.application.event_fanout import EventFanout, StreamLimit
from accelerator_autopilot.gateway.application.quota_reconciliation import reconcile_loop
from accelerator_autopilot.gateway.application.response_cache import CachedResponse
from accelerator_autopilot.gateway.http import documentation, problem_details
from accelerator_autopilot.gateway.http.request_bodies import MemoryBudget
from accelerator_autopilot.gateway.routes import alerts, batches, dead_letters, fleet, jobs, openai
from accelerator_autopilot.gateway.security.key_file import KeyRing
from accelerator_autopilot.gateway.security.rejected_key_audit import RejectedKeyAudit
from accelerator_autopilot.gateway.security.request_guard import RequestGuard
from accelerator_autopilot.gateway.security.route_access import AccessTable
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime import audit_log
from accelerator_autopilot.runtime.health import HealthServer, HealthState
from accelerator_autopilot.runtime.poison_messages import PoisonRule
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.runtime.supervision import TaskSupervisor, beat, cancel_all
from accelerator_autopilot.transport import audit_records
from accelerator_autopilot.transport.stream_setup import ensure

if TYPE_CHECKING:
    from accelerator_autopilot.contracts.frames import TelemetryFrame

TITLE = "Accelerator Autopilot"
ROUTERS = [module.router for module in (jobs, batches, dead_letters, openai, fleet, alerts)]
KEYS_INTERVAL_S = 1.0
HANG_TIMEOUT_S = 30.0
UNFINISHED_HANG_TIMEOUT_S = 120.0
# They are derived from thousands of alerts over months, and change within days.
RISKS_FRESH_S = 30.0
# How far a stream's reader may fall behind: of samples only the newest count, of alerts all.
FRAMES_WAITING, ALERTS_WAITING = 32, 1_000


def create_app(settings: GatewaySettings | None = None) -> FastAPI:
    """Create the gateway app. Raises SettingsError when the keys cannot be read."""
    settings = settings or load(GatewaySettings)
    health, registry = HealthState("gateway"), CollectorRegistry()
    keys = KeyRing(settings.api_keys_file)
    connection = NatsConnection(settings, health)
    quota = Quota(settings.jobs_per_minute, settings.unfinished_jobs, settings.fair_share_jobs)
    admission = Admission(quota, settings.queue_limit)

    async def write(entry: AuditRecord) -> None:
        await audit_records.write(connection.client.js, entry)

    outbox = audit_log.AuditOutbox(write, registry)
    refusals = RejectedKeyAudit(outbox.put, registry)
    supervisor = TaskSupervisor(health, registry)
    poison = PoisonRule(registry, lambda: connection.client.js)

    async def follow_keys() -> None:
        while True:
            beat()
            keys.refresh()
            health.report("api_keys", ok=not keys.problem, reason=keys.problem)
            await asyncio.sleep(KEYS_INTERVAL_S)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server = HealthServer(health, registry, settings.health_host, settings.health_port)
        server.start()
        client = await connection.open()
        await ensure(client.js, settings.stream_replicas, results_mib=settings.results_mib)
        app.state.client = client
        app.state.frames, app.state.alerts = make_fanouts(client, poison)

        async def on_result(message: Msg) -> None:
            admission.finished(subjects.finished_job(message.subject), asyncio.get_running_loop().time())

        async def view(reference: str) -> JobView:
            job_id, project = parse_job_reference(reference)
            return await client.in_project(project).jobs.view(job_id)

        for wildcard in subjects.in_any_project(subjects.ANY_RESULT):
            await client.nc.subscribe(wildcard, cb=poison.callback("gateway results", on_result))
        for name, work in (
            ("connection", connection.watch),
            ("write probe", connection.prove_writes),
            ("keys", follow_keys),
            ("audit", outbox.run),
            ("refusals", refusals.run),
        ):
            supervisor.start(name, work, hang_timeout_s=HANG_TIMEOUT_S)
        supervisor.start(
            "unfinished jobs",
            partial(reconcile_loop, admission, view),
            hang_timeout_s=UNFINISHED_HANG_TIMEOUT_S,
        )
        supervisor.start("live samples", app.state.frames.run)
        supervisor.start("live alerts", app.state.alerts.run)
        health.report("started", ok=True)
        yield
        await cancel_all(supervisor.tasks)
        await connection.close()
        server.stop()

    app = FastAPI(
        title=TITLE,
        version=importlib.metadata.version("accelerator-autopilot"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="Submit jobs, follow them, read the fleet and steer it.",
    )
    app.state.admission = admission
    app.state.risks = CachedResponse[list[Risk]](RISKS_FRESH_S)
    app.state.streams = StreamLimit(settings.streams_per_key)
    problem_details.install(app)
    for router in ROUTERS:
        app.include_router(router)
    public = documentation.install(app)
    app.add_middleware(
        RequestGuard,
        table=AccessTable(ROUTERS, most_bytes=settings.max_body_bytes, public=public),
        keys=keys,
        budget=MemoryBudget(settings.request_memory_bytes),
        registry=registry,
        refused=refusals.count,
        most_at_once=settings.requests_per_key,
    )
    return app


def make_fanouts(client: AutopilotClient, poison: PoisonRule) -> tuple[EventFanout[TelemetryFrame], EventFanout[Alert]]:
    """Return what is streamed over HTTP: samples and alerts."""
    odd_frame, odd_alert = partial(poison.drop, "live samples"), partial(poison.drop, "live alerts")
    frames = EventFanout(partial(client.fleet.live, odd_frame), _serialize, depth=FRAMES_WAITING, failed=odd_frame)
    alerts = EventFanout(partial(client.alerts.follow, odd_alert), _alert_words, depth=ALERTS_WAITING, failed=odd_alert)
    return frames, alerts


def _serialize(frame: TelemetryFrame) -> str:
    at = frame.tick_time(frame.ticks - 1).isoformat()
    return json.dumps({"node": frame.node, "at": at, "devices": frame.latest()})


def _alert_words(alert: Alert) -> str:
    return alert.model_dump_json()
