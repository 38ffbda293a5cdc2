"""submit, map, batch, jobs, result, cancel, dead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accelerator_autopilot.cli import name_completions as completions
from accelerator_autopilot.cli.output import fail, progress, say, show, show_document, writes_json
from accelerator_autopilot.cli.payload_inputs import read_lines, read_payload
from accelerator_autopilot.cli.session import DEFAULT_FOLDER, DataDir, ask, connected, facts, run
from accelerator_autopilot.cli.table_layout import Column, Row, Table
from accelerator_autopilot.cli.text_sanitizing import json_text
from accelerator_autopilot.contracts.errors import ConflictError, UnavailableError
from accelerator_autopilot.contracts.exit_codes import ExitCode
from accelerator_autopilot.contracts.messages.jobs import DeadJob, JobProgress, JobResult

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient
    from accelerator_autopilot.client.batches import BatchView
    from accelerator_autopilot.client.job_views import JobView
    from accelerator_autopilot.client.jobs import JobHandle
    from accelerator_autopilot.contracts.messages.poison import PoisonMessage


class PriorityName(StrEnum):
    """How urgent a job is."""

    high = "high"
    normal = "normal"
    low = "low"


Kind = Annotated[str, typer.Argument(help="Kind of job, such as embed or summarize.", autocompletion=completions.kinds)]
Sources = Annotated[
    list[str] | None, typer.Argument(help="JSON, text or other files, folders, or - for standard input.")
]
Fields = Annotated[list[str] | None, typer.Option("--set", help="Additional payload field, NAME=JSON; repeatable.")]
Priority = Annotated[PriorityName, typer.Option(help="How urgent it is.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Maximum number to show.")]
Job = Annotated[str, typer.Argument(help="ID of the job.", autocompletion=completions.jobs)]

STYLES = {"failed": "red", "cancelled": "yellow", "succeeded": "green"}
JOBS = Table(
    "jobs",
    (
        Column("id"),
        Column("kind"),
        Column("state", style=lambda row: STYLES.get(str(row["state"]), "")),
        Column("took_s", "took", priority=1, text=lambda row: _seconds(row["took_s"])),
        Column("priority", priority=3),
        Column("worker", priority=4),
        Column("device", priority=2),
    ),
    "There are no waiting, running or recently finished jobs.",
)
DEAD = Table(
    "dead_jobs",
    (
        Column("id"),
        Column("kind"),
        Column("at", "at (UTC)", priority=2),
        Column("reason", priority=1),
        Column("error", "last error", prose=True),
    ),
    "No job has failed permanently in the last thirty days.",
)
SET_ASIDE = Table(
    "unreadable_messages",
    (
        Column("stream"),
        Column("sequence"),
        Column("subject", priority=1, prose=True),
        Column("consumer", priority=2),
        Column("at", "at (UTC)", priority=3),
        Column("reason", prose=True),
    ),
    "No message is quarantined.",
)


def submit(
    kind: Kind,
    files: Sources = None,
    fields: Fields = None,
    priority: Priority = PriorityName.normal,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print its output.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Like --wait, and show progress and partial output as they arrive.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds that --wait waits.")] = 300.0,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: submitting again with the same key gives the same job.")
    ] = None,
    delay_s: Annotated[float | None, typer.Option(min=0, help="Seconds until it enters the queue.")] = None,
    ttl_s: Annotated[
        float, typer.Option(min=0.001, help="Seconds within which it must start; then it fails as expired.")
    ] = 86_400.0,
    result_ttl_s: Annotated[float, typer.Option(min=1, help="Seconds for which the result is kept.")] = 86_400.0,
    after: Annotated[
        list[str] | None,
        typer.Option(help="ID of a job that must succeed first; repeatable.", autocompletion=completions.jobs),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Run only where this model is offered.")] = None,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Submit a job and print its ID, or with --wait its output."""

    async def work() -> JobResult | JobHandle:
        payload = read_payload(kind, files or [], fields or [])
        options: dict[str, Any] = {
            "priority": priority.value, "delay_s": delay_s, "ttl_s": ttl_s, "result_ttl_s": result_ttl_s,
            "after": after or [], "needs": {"model": model} if model else None,
        }  # fmt: skip
        async with connected(data_dir) as autopilot:
            if follow:
                return await _follow(autopilot.jobs.stream(kind, payload, **options))
            handle = await autopilot.jobs.submit(kind, payload, idempotency_key=key, **options)
            await _warn_of_unknown(kind, autopilot)
            return await _awaited(handle, timeout_s) if wait else handle

    outcome = run(work)
    if isinstance(outcome, JobResult):
        _show_result(outcome)
    else:
        say(outcome.id, id=outcome.id, kind=outcome.kind, duplicate=outcome.duplicate)


async def _awaited(handle: JobHandle, timeout_s: float) -> JobResult:
    try:
        return await handle.wait(timeout_s)
    except TimeoutError:
        text = (
            f"job {handle.id} has not ended after {timeout_s:g} s; get its result later: `autopilot result {handle.id}`"
        )
        fail(text, ExitCode.TIMED_OUT)


async def _warn_of_unknown(kind: str, autopilot: AutopilotClient) -> None:
    """Warn that nothing runs this kind now; a pool that does may still start."""
    pools = await autopilot.fleet.pools()
    known = sorted({name for pool in pools for name in pool.kinds})
    if pools and kind not in known:
        progress(f"note: no pool runs {kind!r} jobs at the moment, so this waits; available kinds: {', '.join(known)}")


async def _follow(events: AsyncIterator[JobProgress | JobResult]) -> JobResult:
    async for event in events:
        if isinstance(event, JobResult):
            progress("")
            return event
        piece = event.partial.get("text", "") if isinstance(event.partial, dict) else ""
        progress(str(piece) or f"{(event.fraction or 0):.0%} ", end="")
    raise UnavailableError(
        "the connection was lost before the job finished; `autopilot result ID` shows the result later"
    )


def map_(
    kind: Kind,
    files: Annotated[list[str], typer.Argument(help="Files, one job per file; with --lines, files of JSON lines.")],
    lines: Annotated[
        bool, typer.Option("--lines", help="Submit one job per line, a JSON object; - reads standard input.")
    ] = False,
    fields: Fields = None,
    priority: Priority = PriorityName.normal,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait, and print one JSON line per result, in the order of the inputs.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each next result.")] = 3600.0,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Submit a batch, one job for each input, and print its ID."""

    async def work() -> int:
        payloads = [p for f in files for p in read_lines(f)] if lines else []
        if not lines:
            payloads = [read_payload(kind, [file], fields or []) for file in files]
        async with connected(data_dir) as autopilot:
            handle = await autopilot.batches.map(kind, payloads, priority=priority.value)
            await _warn_of_unknown(kind, autopilot)
            if not wait:
                say(handle.id, id=handle.id, kind=kind, count=handle.count)
                return 0
            return await _print_results(handle.id, handle.results(timeout_s))

    if run(work):
        raise typer.Exit(1)


def batch(
    batch_id: Annotated[str, typer.Argument(help="ID of the batch, as `autopilot map` prints it.")],
    results: Annotated[
        bool, typer.Option("--results", help="Print one JSON line per result, in the order of the inputs.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel what has not ended yet.")] = False,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Show the progress of a batch, print its results, or cancel it."""

    async def work(autopilot: AutopilotClient) -> BatchView | int:
        if cancel:
            return await autopilot.batches.cancel(batch_id)
        if results:
            await _print_results(batch_id, autopilot.batches.results(batch_id))
            return -1
        return await autopilot.batches.view(batch_id)

    found = ask(data_dir, work)
    if not isinstance(found, int):
        say(f"{found.id}: {found.done} of {found.count} {found.kind} jobs have ended", **found.model_dump())
    elif cancel:
        say(f"{batch_id}: {found} jobs cancelled", id=batch_id, cancelled=found)


async def _print_results(batch_id: str, found: AsyncIterator[JobResult]) -> int:
    """Print results as they arrive, or all in one document; returns how many failed."""
    failed, kept = 0, []
    async for one in found:
        failed += one.status != "succeeded"
        line = {"id": one.job_id, "status": one.status, "output": one.output, "error": _last_error(one)}
        if writes_json():
            kept.append(line)
        else:
            print(json_text(line, indent=None), flush=True)
    if writes_json():
        show_document({"id": batch_id, "results": kept})
    return failed


def _last_error(outcome: JobResult | DeadJob) -> str | None:
    return outcome.errors[-1].message if outcome.errors else None


def dead(
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.", autocompletion=completions.kinds)] = None,
    replay: Annotated[
        str | None,
        typer.Option(help="Submit this dead job again, as a new job.", autocompletion=completions.dead_jobs),
    ] = None,
    limit: Limit = 30,
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """List jobs that failed permanently and messages that no service could read, or retry a job."""
    if replay is not None:
        wanted = replay
        handle = ask(data_dir, lambda autopilot: autopilot.dead.replay(wanted))
        say(handle.id, id=handle.id, kind=handle.kind, duplicate=handle.duplicate)
        return

    async def work(autopilot: AutopilotClient) -> tuple[list[DeadJob], list[PoisonMessage]]:
        aside = [] if kind else await autopilot.dead.put_aside(limit)
        return await autopilot.dead.list(kind, limit), aside

    letters, aside = ask(data_dir, work)
    listings = [(DEAD, dead_rows(letters))]
    if aside or writes_json():
        listings.append((SET_ASIDE, set_aside_rows(aside)))
    show(*listings)


def dead_rows(letters: Iterable[DeadJob]) -> list[Row]:
    """Return dead jobs, with their content where they were not jobs at all."""
    return [
        {"id": d.id, "kind": d.kind, "at": d.at, "reason": d.reason, "error": _last_error(d) or d.raw} for d in letters
    ]


def set_aside_rows(aside: Iterable[PoisonMessage]) -> list[Row]:
    """Return where each message is and why it was quarantined; never its content."""
    return [
        {
            "stream": m.stream,
            "sequence": m.sequence,
            "subject": m.subject,
            "consumer": m.consumer,
            "at": m.at,
            "reason": f"{m.error}: {m.reason}".removesuffix(": "),
        }
        for m in aside
    ]


def result(job_id: Job, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """Print the output of a job that has ended."""

    async def work(autopilot: AutopilotClient) -> JobResult:
        view = await autopilot.jobs.view(job_id)
        if view.result is None:
            raise ConflictError(f"job {job_id} has not finished: it is {view.state}")
        return view.result

    _show_result(ask(data_dir, work))


def _show_result(outcome: JobResult) -> None:
    """Show its output, or with --json everything known about it."""
    if writes_json():
        document = {"id": outcome.job_id, **facts(outcome, "job_id", "output_ref"), "error": _last_error(outcome)}
        show_document(document)
    if outcome.status != "succeeded":
        fail(f"job {outcome.job_id} {outcome.status}: {_last_error(outcome) or ''}".removesuffix(": "))
    if not writes_json():
        show_document(outcome.output)


def jobs(limit: Limit = 30, data_dir: DataDir = DEFAULT_FOLDER) -> None:
    """List jobs that wait or run, then those that ended last."""

    async def work(autopilot: AutopilotClient) -> list[JobView]:
        return [*await autopilot.jobs.queued(limit), *await autopilot.jobs.finished(limit)][:limit]

    show((JOBS, job_rows(ask(data_dir, work))))


def job_rows(views: Iterable[JobView]) -> list[Row]:
    """Return jobs, with where finished ones ran."""
    return [
        {
            "id": view.id,
            "kind": view.kind,
            "state": view.state,
            "took_s": (r.finished_at - r.submitted_at).total_seconds() if (r := view.result) else None,
            "priority": view.priority,
            "worker": r.worker if r else "",
            "device": r.device if r else "",
        }
        for view in views
    ]


def _seconds(value: object) -> str:
    return f"{value:.2f} s" if isinstance(value, float) else ""


def cancel(
    job_id: Annotated[str, typer.Argument(help="ID of the job.", autocompletion=completions.queued_jobs)],
    data_dir: DataDir = DEFAULT_FOLDER,
) -> None:
    """Cancel a job that has not ended yet."""
    ended = ask(data_dir, lambda autopilot: autopilot.jobs.cancel(job_id))
    say(f"{job_id}: {ended.status}", id=job_id, kind=ended.kind, status=ended.status)
