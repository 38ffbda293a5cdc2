"""The recorder: takes every stream to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faststream import FastStream

from accelerator_autopilot.runtime.service import Service
from accelerator_autopilot.runtime.settings import load
from accelerator_autopilot.telemetry.device_metrics.export import tell_devices
from accelerator_autopilot.telemetry.device_metrics.latest_samples import LatestSamples
from accelerator_autopilot.telemetry.recorder.application.recorder import Recorder
from accelerator_autopilot.telemetry.settings import RecorderSettings


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
