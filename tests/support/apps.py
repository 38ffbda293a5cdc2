"""Services in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream


@asynccontextmanager
async def running(app: FastStream) -> AsyncIterator[None]:
    """An app in this process, without its signal handlers."""
    async with app.lifespan_context():
        await app.start()
        try:
            yield
        finally:
            await app.stop()
