"""Connect commands to the running product, and turn errors into exit codes.

The client is imported on connecting: shell completion of options must not wait for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from accelerator_autopilot.cli.output import fail
from accelerator_autopilot.contracts.data_folder import DEFAULT_DATA_DIR
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.exit_codes import ExitCode, exit_code

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.contracts.messages.base import Message
    from accelerator_autopilot.transport.settings import NatsSettings

T = TypeVar("T")

DEFAULT_FOLDER = DEFAULT_DATA_DIR
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="AUTOPILOT_DATA_DIR",
        help="Data folder of the instance that runs on this machine.",
        show_default=False,
    ),
]


def moment(text: str) -> str:
    """Parse an ISO 8601 time, returned unchanged. Raises typer.BadParameter."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time in ISO 8601, such as 2026-11-20 or 2026-11-20T12:00"
        ) from None
    return text


def nats_settings(data_dir: Path) -> NatsSettings:
    """Return settings from the environment, else those of the instance in this folder. Raises UnavailableError."""
    from pydantic import SecretStr  # noqa: PLC0415

    from accelerator_autopilot.deploy.local.instance import Instance  # noqa: PLC0415
    from accelerator_autopilot.runtime.settings import load  # noqa: PLC0415
    from accelerator_autopilot.transport.settings import NatsSettings  # noqa: PLC0415

    if os.environ.get("AUTOPILOT_NATS_URL"):
        return load(NatsSettings)
    runtime = Instance(data_dir).load()
    return NatsSettings(
        nats_url=runtime.nats_url, nats_user=runtime.nats_user, nats_password=SecretStr(runtime.nats_password)
    )


@asynccontextmanager
async def connected(data_dir: Path) -> AsyncIterator[AutopilotClient]:
    """Yield a connected client of the running product. Raises UnavailableError."""
    from accelerator_autopilot.client import AutopilotClient  # noqa: PLC0415
    from accelerator_autopilot.client.connect_settings import default_actor, default_project  # noqa: PLC0415

    async with AutopilotClient(
        nats_settings(data_dir), name="cli", actor=default_actor(), project=default_project()
    ) as client:
        yield client


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command; one of our errors becomes one line, with the exit code of its type."""
    from accelerator_autopilot.client.error_translation import translated  # noqa: PLC0415

    async def guarded() -> T:
        with translated("the request failed"):
            return await work()

    try:
        return asyncio.run(guarded())
    except AutopilotError as error:
        fail(str(error), exit_code(error))
    except TimeoutError:
        fail("timed out waiting for an answer; the operation may still complete", ExitCode.TIMED_OUT)
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(f"{error.filename or 'system'}: {error.strerror or error}")
    except KeyboardInterrupt:
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None


def facts(message: Message, *without: str) -> dict[str, Any]:
    """Return a message's fields for a JSON document, without its schema version."""
    return {name: _plain(value) for name, value in message if name not in {*without, "schema_version"}}


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return facts(value) if hasattr(value, "schema_version") else value  # type: ignore[arg-type]


def ask(data_dir: Path, question: Callable[[AutopilotClient], Awaitable[T]]) -> T:
    """Run a command that needs one connection."""

    async def work() -> T:
        async with connected(data_dir) as autopilot:
            return await question(autopilot)

    return run(work)
