"""The recorder: takes every stream to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream

from services.telemetry.domain.latest import LatestSamples
from services.telemetry.recorder import Recorder
from services.telemetry.settings import RecorderSettings
from services.telemetry.telling import tell_devices
from shared.service import Service
from shared.settings import load


def create_recorder(settings: RecorderSettings | None = None) -> FastStream:
    """The recorder: writes every stream to the database."""
    settings = settings or load(RecorderSettings)
    service = Service("recorder", settings)
    # Whoever scrapes agents and recorder has each device once.
    latest = tell_devices(service, settings) if settings.recorder_device_metrics else LatestSamples(0)
    recorder = Recorder(settings, service, latest)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with service.running(recorder.watched) as js:
            service.supervise("recorder", lambda: recorder.run(js))
            yield

    return service.app(lifespan)
