"""A running embedded product for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
from pydantic import SecretStr

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.deploy.local.product import EmbeddedProduct, Options
from accelerator_autopilot.transport.settings import NatsSettings


@asynccontextmanager
async def running_product(
    folder: Path, environment: dict[str, str] | None = None, simulate: int = 2
) -> AsyncIterator[tuple[EmbeddedProduct, AutopilotClient]]:
    """The whole product, supervised, with a connected client."""
    options = Options(
        data_dir=folder, simulate=simulate, nats_port=0, gateway_port=0, node="testnode",
        environment={"AUTOPILOT_WEBHOOK_PRIVATE_TARGETS": "true"} | (environment or {}),
    )  # fmt: skip
    product = EmbeddedProduct(options)
    runtime = await product.start()
    supervising = asyncio.create_task(product.run())
    settings = NatsSettings(
        nats_url=runtime.nats_url, nats_user=runtime.nats_user, nats_password=SecretStr(runtime.nats_password)
    )
    try:
        async with AutopilotClient(settings, name="test", actor="tester") as client:
            yield product, client
    finally:
        supervising.cancel()
        with suppress(asyncio.CancelledError):
            await supervising
        await product.stop()


async def query(dsn: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()
