"""submit, map, batch, jobs, result, cancel, dead."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from accelerator_autopilot.cli.payload_inputs import read_lines, read_payload
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, connected, console, errors, fail, run
from accelerator_autopilot.cli.table_cells import cell
from accelerator_autopilot.contracts.errors import NotFoundError, UnavailableError
from accelerator_autopilot.contracts.messages.jobs import JobProgress, JobResult
from accelerator_autopilot.contracts.messages.poison import PoisonMessage


class PriorityName(StrEnum):
    """How urgent a job is."""

    high = "high"
    normal = "normal"
    low = "low"


Sources = Annotated[list[str] | None, typer.Argument(help="JSON, text or other files, folders, - for standard input")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="a field of the payload, NAME=JSON; repeatable")]
Kept = Annotated[float, typer.Option(min=1, help="how long the result is kept")]


def submit(
    kind: str,
    files: Sources = None,
    fields: Settings = None,
    priority: PriorityName = PriorityName.normal,
    wait: Annotated[bool, typer.Option("--wait", help="wait for the result and print its output")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="print progress and partial output as they come")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1)] = 300.0,
    key: Annotated[str | None, typer.Option(help="idempotency key: the same key is the same job")] = None,
    delay_s: Annotated[float | None, typer.Option(min=0, help="enters the queue after this time")] = None,
    ttl_s: Annotated[float, typer.Option(min=0.001, help="must have begun by then")] = 86_400.0,
    result_ttl_s: Kept = 86_400.0,
    after: Annotated[list[str] | None, typer.Option(help="id of a job that must have succeeded; repeatable")] = None,
    model: Annotated[str | None, typer.Option(help="model that its worker must offer")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Submit a job and print its id."""

    async def work() -> JobResult | str:
        payload = read_payload(kind, files or [], fields or [])
        options: dict[str, Any] = {
            "priority": priority.value, "delay_s": delay_s, "ttl_s": ttl_s, "result_ttl_s": result_ttl_s,
            "after": after or [], "needs": {"model": model} if model else None,
        }  # fmt: skip
        async with connected(data_dir) as autopilot:
            if follow:
                return await _follow(autopilot.jobs.stream(kind, payload, **options))
            handle = await autopilot.jobs.submit(kind, payload, idempotency_key=key, **options)
            return await handle.wait(timeout_s) if wait else handle.id

    outcome = run(work)
    if isinstance(outcome, str):
        print(outcome)
    else:
        _show(outcome)


async def _follow(told: AsyncIterator[JobProgress | JobResult]) -> JobResult:
    async for event in told:
        if isinstance(event, JobResult):
            errors.print()
            return event
        piece = event.partial.get("text", "") if isinstance(event.partial, dict) else ""
        errors.print(piece or f"{(event.fraction or 0):.0%} ", end="", highlight=False, markup=False)
    raise UnavailableError("the job told no end")


def map_(
    kind: str,
    files: Annotated[list[str], typer.Argument(help="one job a file, or with --lines one a line of JSON")],
    lines: Annotated[
        bool, typer.Option("--lines", help="FILE holds one JSON payload a line; - for standard input")
    ] = False,
    fields: Settings = None,
    priority: PriorityName = PriorityName.normal,
    wait: Annotated[bool, typer.Option("--wait", help="print results as JSON lines, in order")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="for the next result")] = 3600.0,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Submit a batch, one job an input, and print its id."""

    async def work() -> int:
        payloads = [p for f in files for p in read_lines(f)] if lines else []
        if not lines:
            payloads = [read_payload(kind, [file], fields or []) for file in files]
        async with connected(data_dir) as autopilot:
            handle = await autopilot.batches.map(kind, payloads, priority=priority.value)
            if not wait:
                print(handle.id)
                return 0
            return await _print_results(handle.results(timeout_s))

    if run(work):
        raise typer.Exit(1)


def batch(
    batch_id: str,
    results: Annotated[bool, typer.Option("--results", help="print results as JSON lines, in order")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="end what has no result yet")] = False,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """How far a batch is, its results, or its end."""

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            if cancel:
                console.print(f"{await autopilot.batches.cancel(batch_id)} jobs cancelled")
            elif results:
                await _print_results(autopilot.batches.results(batch_id))
            else:
                view = await autopilot.batches.view(batch_id)
                console.print(f"{view.id}: {view.done} of {view.count} {view.kind} jobs have ended")

    run(work)


async def _print_results(found: AsyncIterator[JobResult]) -> int:
    failed = 0
    async for one in found:
        failed += one.status != "succeeded"
        reason = one.errors[-1].message if one.errors else None
        print(json.dumps({"id": one.job_id, "status": one.status, "output": one.output, "error": reason}))
    return failed


def dead(
    kind: Annotated[str | None, typer.Option(help="jobs of this kind alone")] = None,
    replay: Annotated[str | None, typer.Option(help="id of a dead job to submit again")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 30,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Jobs that could not succeed, another life for one, and other messages that no service could handle."""

    async def work() -> None:
        async with connected(data_dir) as autopilot:
            if replay:
                print((await autopilot.dead.replay(replay)).id)
                return
            table = Table("id", "kind", "died", "reason", "last error")
            for letter in await autopilot.dead.list(kind, limit):
                last = letter.errors[-1].message if letter.errors else letter.raw
                died = f"{letter.at:%Y-%m-%d %H:%M:%S}"
                table.add_row(cell(letter.id), cell(letter.kind), died, letter.reason, cell(last))
            aside = [] if kind else await autopilot.dead.put_aside(limit)
        console.print(table)
        if aside:
            console.print(_aside_table(aside))

    run(work)


def _aside_table(aside: list[PoisonMessage]) -> Table:
    """Where a message stood and why it was put aside; never what it said."""
    table = Table("message", "subject", "consumer", "put aside", "reason", title="messages put aside")
    for letter in aside:
        reason = f"{letter.error}: {letter.reason}".removesuffix(": ")
        place = f"{letter.stream} {letter.sequence}"
        at = f"{letter.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(cell(place), cell(letter.subject, 100), cell(letter.consumer), at, cell(reason))
    return table


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
                worker, device = (r.worker, r.device) if r else ("", "")
                table.add_row(cell(view.id), cell(view.kind), view.state, cell(worker), cell(device), took)
        console.print(table)

    run(work)


def cancel(job_id: str, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """End a job that has no result yet."""

    async def work() -> JobResult:
        async with connected(data_dir) as autopilot:
            return await autopilot.jobs.cancel(job_id)

    console.print(f"{job_id}: {run(work).status}")
