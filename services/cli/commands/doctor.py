"""doctor: check this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import typer

from accelerator_autopilot.cli import system_checks as checks
from accelerator_autopilot.cli.output import show
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, nats_settings
from accelerator_autopilot.cli.system_checks import Check
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.contracts.exit_codes import ExitCode

STYLES: dict[str, str] = {
    checks.OK: "green",
    checks.WARNING: "yellow",
    checks.FAILED: "red",
    checks.NOT_APPLICABLE: "dim",
}


def _state(row: Row) -> str:
    return "n/a" if row["state"] == checks.NOT_APPLICABLE else str(row["state"])


def _detail(row: Row) -> str:
    return f"{row['detail']}. To do: {row['advice']}" if row["advice"] else str(row["detail"])


CHECKS = Table(
    "checks",
    (
        Column("check"),
        Column("state", text=_state, style=lambda row: STYLES.get(str(row["state"]), "")),
        Column("detail", prose=True, text=_detail),
        Column("advice", terminal=False),
    ),
    "Nothing was checked.",
)


def doctor(data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Check what this machine needs to run the product, and say what to do about what is missing.

    Exits with 1 if a check fails: then `autopilot up`, or the server that AUTOPILOT_NATS_URL names, does not work.
    """
    found = [*_local(data_dir), *asyncio.run(_running(data_dir))]
    show((CHECKS, [{"check": c.name, "state": c.state, "detail": c.detail, "advice": c.advice} for c in found]))
    if any(c.state == checks.FAILED for c in found):
        raise typer.Exit(int(ExitCode.FAILED))


def _remote() -> str:
    return os.environ.get("AUTOPILOT_NATS_URL", "")


def _local(data_dir: Path) -> list[Check]:
    root, driver = os.geteuid() == 0, Path("/proc/driver/nvidia/version").exists()
    return [
        checks.python_check(),
        checks.package_check(checks.absent_distributions(), needed=not _remote()),
        *checks.gpu_checks(checks.query_gpus(), driver=driver, root=root),
        checks.sandbox_check(),
        checks.user_check(),
        *checks.folder_checks(data_dir),
    ]


async def _running(data_dir: Path) -> list[Check]:
    if not _remote():
        return await checks.instance_checks(data_dir)
    try:
        async with connected(data_dir):
            problem = ""
    except AutopilotError as error:
        problem = str(error)
    return [checks.server_check(nats_settings(data_dir).nats_url, problem)]
