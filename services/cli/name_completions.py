"""Complete names in a shell: asked from the server if it answers quickly, else none.

A shell waits for these while somebody types. So a server that takes longer than BUDGET_S is abandoned, whatever hangs:
the completing process has nothing else to do.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from accelerator_autopilot.client import AutopilotClient

BUDGET_S = 0.4
GIVE_UP_S = 0.05  # after the budget, for what cannot be cancelled
MAX_COMPLETIONS = 200

Complete = Callable[[typer.Context], list[str]]
Question = Callable[["AutopilotClient"], Awaitable[Iterable[str]]]


def _answered(context: typer.Context, question: Question) -> list[str]:
    """Return the server's answer within the budget, or nothing."""
    # Imported here, since completing options and commands does not need it; before the timer starts, since the
    # import always ends.
    from accelerator_autopilot.cli.session import DEFAULT_FOLDER, nats_settings  # noqa: PLC0415
    from accelerator_autopilot.client import AutopilotClient  # noqa: PLC0415
    from accelerator_autopilot.contracts.errors import AutopilotError  # noqa: PLC0415

    try:
        client = AutopilotClient(nats_settings(Path(context.params.get("data_dir") or DEFAULT_FOLDER)), name="cli")
    except AutopilotError:
        return []
    found: list[str] = []
    begun = threading.Thread(target=_ask, args=(client, question, found), daemon=True)
    begun.start()
    begun.join(BUDGET_S)
    # Whatever still hangs must not keep the shell waiting when this process exits.
    last_resort = threading.Timer(GIVE_UP_S, os._exit, [0])
    last_resort.daemon = True
    if begun.is_alive():
        last_resort.start()
    return sorted(set(found))[:MAX_COMPLETIONS]


def _ask(client: AutopilotClient, question: Question, found: list[str]) -> None:
    async def work() -> None:
        async with client as autopilot:
            found.extend(str(name) for name in await question(autopilot) if str(name).isprintable())

    try:
        asyncio.run(work())
    except BaseException:  # noqa: BLE001  a completion has nobody to tell of errors, and must not write between the lines
        return


def _completion(question: Question) -> Complete:
    def complete(ctx: typer.Context) -> list[str]:
        return _answered(ctx, question)

    return complete


async def _pools(autopilot: AutopilotClient) -> Iterable[str]:
    return [p.pool for p in await autopilot.fleet.pools()]


async def _nodes(autopilot: AutopilotClient) -> Iterable[str]:
    return [i.node for i in await autopilot.fleet.inventories()]


async def _devices(autopilot: AutopilotClient) -> Iterable[str]:
    return [d.device for i in await autopilot.fleet.inventories() for d in i.devices]


async def _kinds(autopilot: AutopilotClient) -> Iterable[str]:
    return [kind for p in await autopilot.fleet.pools() for kind in p.kinds]


async def _queued_jobs(autopilot: AutopilotClient) -> Iterable[str]:
    return [j.id for j in await autopilot.jobs.queued(MAX_COMPLETIONS)]


async def _jobs(autopilot: AutopilotClient) -> Iterable[str]:
    return [*await _queued_jobs(autopilot), *(j.id for j in await autopilot.jobs.finished(50))]


async def _dead_jobs(autopilot: AutopilotClient) -> Iterable[str]:
    return [letter.id for letter in await autopilot.dead.list(limit=50)]


async def _open_alerts(autopilot: AutopilotClient) -> Iterable[str]:
    return [a.id for a in await autopilot.alerts.open()]


async def _subscriptions(autopilot: AutopilotClient) -> Iterable[str]:
    return [s.id for s in await autopilot.alerts.subscriptions()]


async def _silences(autopilot: AutopilotClient) -> Iterable[str]:
    return [s.id for s in await autopilot.alerts.silences()]


async def _recommendations(autopilot: AutopilotClient) -> Iterable[str]:
    return [r.id for r in await autopilot.fleet.recommendations(50)]


async def _decisions(autopilot: AutopilotClient) -> Iterable[str]:
    return [r.id for r in await autopilot.fleet.decision_records(50)]


pools, nodes, devices, kinds = map(_completion, (_pools, _nodes, _devices, _kinds))
jobs, queued_jobs, dead_jobs = map(_completion, (_jobs, _queued_jobs, _dead_jobs))
open_alerts, subscriptions, silences = map(_completion, (_open_alerts, _subscriptions, _silences))
recommendations, decisions = map(_completion, (_recommendations, _decisions))
