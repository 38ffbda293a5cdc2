"""A gateway in this process, by HTTP without a socket or on one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from accelerator_autopilot.deploy.local.instance import take_port
from accelerator_autopilot.gateway.__main__ import server_options
from accelerator_autopilot.gateway.app import create_app
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime.api_keys import digest
from tests.support.waiting import eventually

KEYS = {
    digest("v"): {"role": "viewer", "user": "vera"},
    digest("o"): {"role": "operator", "user": "olga"},
    digest("a"): {"role": "admin", "user": "ada"},
    digest("old"): "admin",
}


def gateway_app(nats_url: str, folder: Path, **settings: Any) -> FastAPI:
    keys = folder / "keys.json"
    keys.write_text(json.dumps(KEYS))
    return create_app(GatewaySettings(nats_url=nats_url, api_keys_file=keys, **settings))


@asynccontextmanager
async def gateway_http(nats_url: str, folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = gateway_app(nats_url, folder, **settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
            yield client


@asynccontextmanager
async def gateway_on_a_port(nats_url: str, folder: Path, **settings: Any) -> AsyncIterator[int]:
    port = take_port(0, "gateway")
    app = gateway_app(nats_url, folder, gateway_port=port, **settings)
    options = server_options(GatewaySettings(gateway_port=port, **settings))
    server = uvicorn.Server(uvicorn.Config(app, **options))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve())
    try:
        await eventually(lambda: server.started, 20)
        yield port
    finally:
        server.should_exit = True
        await serving
