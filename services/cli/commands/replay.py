"""replay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, fail
from accelerator_autopilot.contracts.errors import AutopilotError
from accelerator_autopilot.deploy.local.instance import Instance


def replay(
    input_file: Annotated[Path | None, typer.Option("--input", help="CSV, CSV.gz or Parquet with t_s, device")] = None,
    since: Annotated[str | None, typer.Option("--from", help="start of a span of the database, ISO 8601")] = None,
    until: Annotated[str | None, typer.Option("--to", help="its end")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON lines; standard output when left out")] = None,
    detector: Annotated[list[str] | None, typer.Option(help="only this kind; may be given several times")] = None,
    plot: Annotated[Path | None, typer.Option(help="a picture of the alerted devices, PNG or SVG")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """What the detectors would have said of a past span, of a file or of the database."""
    given = {"--input": input_file, "--from": since, "--to": until, "--out": out, "--plot": plot}
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    arguments += [part for kind in detector or [] for part in ("--detector", kind)]
    environment = dict(os.environ)
    if input_file is None and "AUTOPILOT_DATABASE_URL" not in environment:
        try:
            environment["AUTOPILOT_DATABASE_URL"] = Instance(data_dir).load().database_url
        except AutopilotError as error:
            fail(str(error))
    command = [sys.executable, "-m", "accelerator_autopilot.anomaly.replay", *arguments]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603
