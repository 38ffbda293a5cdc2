"""How commands find the running product and say what went wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.errors import AutopilotError, UnavailableError
from accelerator_autopilot.deploy.local.instance import Instance
from accelerator_autopilot.transport.settings import NatsSettings

T = TypeVar("T")


TYPED_AGAIN = frozenset({"id", "alert", "subscription", "device", "node"})


class PlainConsole(Console):
    """Shows text as it is: what jobs and messages hold is neither markup of ours nor commands to the terminal."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False)

    def print(self, *objects: Any, **more: Any) -> None:
        """As rich does, but names that other commands take are never cut to the terminal's width."""
        for table in objects:
            if isinstance(table, Table):
                for column in table.columns:
                    column.no_wrap = column.no_wrap or str(column.header) in TYPED_AGAIN
        super().print(*objects, **more)

    def render_str(self, text: str, **more: Any) -> Text:
        """As rich does, with what no terminal should carry out made visible."""
        shown = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        return super().render_str(shown, **more)


console = PlainConsole()
errors = PlainConsole(stderr=True)

DEFAULT_FOLDER = Path.home() / ".local" / "share" / "accelerator-autopilot"
DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="AUTOPILOT_DATA_DIR", help="folder of the embedded product")
]


def nats_settings(data_dir: Path) -> NatsSettings:
    """Settings from the environment, else those of the instance on this folder."""
    if os.environ.get("AUTOPILOT_NATS_URL"):
        return NatsSettings()
    runtime = Instance(data_dir).load()
    return NatsSettings(
        nats_url=runtime.nats_url, nats_user=runtime.nats_user, nats_password=SecretStr(runtime.nats_password)
    )


@asynccontextmanager
async def connected(data_dir: Path) -> AsyncIterator[AutopilotClient]:
    """A client of the running product."""
    async with AutopilotClient(nats_settings(data_dir), name="cli") as client:
        yield client


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command; an error of ours is one line and exit code 1."""

    async def guarded() -> T:
        return await work()

    try:
        return asyncio.run(guarded())
    except AutopilotError as error:
        fail(str(error))
    except TimeoutError:
        fail(str(UnavailableError("no answer in time")))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(text: str) -> NoReturn:
    """Say what is wrong and end."""
    errors.print("error:", style="red", end=" ")
    errors.print(text, highlight=False, soft_wrap=True)
    raise typer.Exit(1)
