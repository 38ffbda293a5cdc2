"""tour: the main use case end to end, on a temporary instance, one line per step."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from pydantic import SecretStr

from accelerator_autopilot.cli.output import fail, say, writes_json
from accelerator_autopilot.cli.session import run
from accelerator_autopilot.cli.tour_steps import STEPS, Stage, StepError
from accelerator_autopilot.cli.webhook_receiver import WebhookCatcher
from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.deploy.local.product import EmbeddedProduct, Options
from accelerator_autopilot.runtime.json_logs import setup_logging
from accelerator_autopilot.transport.settings import NatsSettings


def tour() -> None:
    """Show the product at work, on a temporary instance of its own. Exits with 1 if a step fails."""
    setup_logging("tour", "ERROR")
    run(_tour)


async def _tour() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autopilot-tour-") as folder:
        options = Options(
            data_dir=Path(folder) / "data",
            simulate=4,
            nats_port=0,
            gateway_port=0,
            environment={"AUTOPILOT_WEBHOOK_PRIVATE_TARGETS": "true"},
        )
        product = EmbeddedProduct(options)
        runtime = await product.start()
        _print(f"   started: everything ready ({time.monotonic() - began:.1f} s)")
        supervising = asyncio.create_task(product.run())
        catcher = WebhookCatcher()
        catcher.start()
        try:
            settings = NatsSettings(
                nats_url=runtime.nats_url,
                nats_user=runtime.nats_user,
                nats_password=SecretStr(runtime.nats_password),
            )
            async with AutopilotClient(settings, name="tour", actor="tour") as autopilot:
                steps = await _walk(Stage(autopilot, runtime, catcher))
        finally:
            catcher.stop()
            supervising.cancel()
            await product.stop()
    took_s = time.monotonic() - began
    say(f"tour passed in {took_s:.1f} s", steps=steps, took_s=round(took_s, 1))


async def _walk(stage: Stage) -> list[dict[str, object]]:
    """Run every step; returns the results."""
    done: list[dict[str, object]] = []
    for number, step in enumerate(STEPS, start=1):
        began = time.monotonic()
        title = (step.__doc__ or "").rstrip(".")
        try:
            seen = await step(stage)
        except (StepError, AutopilotError, TimeoutError) as error:
            fail(f"step {number}, {title}: {type(error).__name__}: {error}")
        took_s = time.monotonic() - began
        done.append({"step": number, "title": title, "seen": seen, "took_s": round(took_s, 1)})
        _print(f"{number}. {title}: {seen} ({took_s:.1f} s)")
    return done


def _print(line: str) -> None:
    """Print each step as it finishes; with --json all of them come in one document at the end."""
    if not writes_json():
        say(line)
