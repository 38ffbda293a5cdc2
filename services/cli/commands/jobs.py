"""submit, jobs, result, cancel."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from services.cli.session import DEFAULT_FOLDER, DataDir, connected, console, fail, run
from shared.errors import InvalidInputError, NotFoundError
from shared.messages.jobs import JobResult


class PriorityName(StrEnum):
    """How urgent a job is."""

    high = "high"
    normal = "normal"
    low = "low"


def read_payload(kind: str, source: str | None) -> dict[str, Any]:
    """A JSON object is taken as it is; any other text becomes the input that the kind expects.

    Raises InvalidInputError for a file that cannot be read as text.
    """
    if source is None:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError("FILE", source, f"cannot be read as UTF-8 text ({type(error).__name__})") from error
    try:
        loaded = json.loads(text)
    except ValueError:
        loaded = None
    if isinstance(loaded, dict):
        return loaded
    return {"texts": [text]} if kind == "embed" else {"text": text}


def submit(
    kind: str,
    file: Annotated[str | None, typer.Argument(help="JSON or text file, - for standard input")] = None,
    priority: PriorityName = PriorityName.normal,
    wait: Annotated[bool, typer.Option("--wait", help="wait for the result and print its output")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1)] = 300.0,
    key: Annotated[str | None, typer.Option(help="idempotency key: the same key is the same job")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Submit a job and print its id."""

    async def work() -> JobResult | str:
        payload = read_payload(kind, file)
        async with connected(data_dir) as autopilot:
            handle = await autopilot.jobs.submit(kind, payload, priority=priority.value, idempotency_key=key)
            return await handle.wait(timeout_s) if wait else handle.id

    outcome = run(work)
    if isinstance(outcome, str):
        print(outcome)
    else:
        _show(outcome)


def result(job_id: str, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """The output of a job."""

    async def work() -> JobResult:
        async with connected(data_dir) as autopilot:
            view = await autopilot.jobs.view(job_id)
            if view.result is None:
                raise NotFoundError(f"job {job_id} has not ended yet: it is {view.state}")
            return view.result

    _show(run(work))


def _show(outcome: JobResult) -> None:
    if outcome.status != "succeeded":
        fail(f"job {outcome.job_id} {outcome.status}: {outcome.errors[-1].message if outcome.errors else ''}")
    print(json.dumps(outcome.output, indent=2, ensure_ascii=False))


def jobs(data_dir: DataDir = DEFAULT_FOLDER, limit: Annotated[int, typer.Option(min=1, max=1000)] = 30) -> None:
    """Queued jobs, then the newest finished ones."""

    async def work() -> None:
        table = Table("id", "kind", "state", "worker", "device", "took")
        async with connected(data_dir) as autopilot:
            for view in [*await autopilot.jobs.queued(limit), *await autopilot.jobs.finished(limit)][:limit]:
                r = view.result
                took = f"{(r.finished_at - r.submitted_at).total_seconds():.2f} s" if r else ""
                table.add_row(view.id, view.kind, view.state, r.worker if r else "", r.device if r else "", took)
        console.print(table)

    run(work)


def cancel(job_id: str, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """End a job that has no result yet."""

    async def work() -> JobResult:
        async with connected(data_dir) as autopilot:
            return await autopilot.jobs.cancel(job_id)

    console.print(f"{job_id}: {run(work).status}")
