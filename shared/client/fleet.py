"""The present state of the fleet: nodes, devices, their newest samples, pools and decisions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.errors import NotFoundError as Missing
from accelerator_autopilot.contracts.messages.commands import (
    COMMAND_KINDS,
    AnyCommand,
    CommandOutcome,
    DecisionRecord,
    Recommendation,
)
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import DeviceInfo, NodeInventory
from accelerator_autopilot.contracts.report_names import PREFIX as REPORT_PREFIX
from accelerator_autopilot.contracts.report_names import name_of_week
from accelerator_autopilot.transport.direct_reads import bucket_items, last_messages
from accelerator_autopilot.transport.object_store import read_object

if TYPE_CHECKING:
    from accelerator_autopilot.contracts.frames import TelemetryFrame


class DeviceView(BaseModel):
    """A device with its newest sample."""

    node: str
    info: DeviceInfo
    sample: dict[str, float] = {}

    def row(self) -> dict[str, Any]:
        """Return the device as one row of a table, its newest sample in a column per metric."""
        description = self.info.model_dump(include={"device", "index", "model", "vendor", "simulated", "memory_bytes"})
        return {"node": self.node} | description | self.sample


class Decision(BaseModel):
    """A command with its outcome."""

    command: AnyCommand
    kind: str
    target: str
    outcome: CommandOutcome | None = None


class Explanation(BaseModel):
    """A decision of the scheduler with its command's outcome, if there was a command."""

    record: DecisionRecord
    outcome: CommandOutcome | None = None


class Fleet:
    """Read the fleet."""

    def __init__(self, nc: Client, js: JetStreamContext) -> None:
        self._nc, self._js = nc, js

    async def inventories(self) -> list[NodeInventory]:
        """Return every node that ever reported, newest state each."""
        return list((await bucket_items(self._js, "inventory", NodeInventory)).values())

    async def frame(self, node: str) -> TelemetryFrame | None:
        """Return the newest frame of a node, if the stream still holds one."""
        from accelerator_autopilot.contracts.frames import decode  # noqa: PLC0415  numpy's 10 MB are only for who looks at frames

        try:
            message = await self._js.get_last_msg("TELEMETRY", subjects.frames(node), direct=True)
            return decode(message.data or b"")
        except (NotFoundError, InvalidInputError):
            return None

    async def devices(self) -> list[DeviceView]:
        """Return all devices with their newest samples."""
        views = []
        for inventory in await self.inventories():
            frame = await self.frame(inventory.node)
            latest = frame.latest() if frame else {}
            views += [
                DeviceView(node=inventory.node, info=info, sample=latest.get(info.device, {}))
                for info in inventory.devices
            ]
        return sorted(views, key=lambda view: (view.node, view.info.index, view.info.device))

    async def find(self, device: str) -> DeviceView:
        """Return the device of this name. Raises NotFoundError."""
        for view in await self.devices():
            if view.info.device == device:
                return view
        raise Missing(f"device {device!r} is in no node's inventory")

    async def live(self, unreadable: Callable[[Exception], None] | None = None) -> AsyncGenerator[TelemetryFrame, None]:
        """Yield frames as they are published; `unreadable` is called for what is left out."""
        from accelerator_autopilot.contracts.frames import decode  # noqa: PLC0415  as above

        subscription = await self._nc.subscribe(subjects.FRAMES)
        try:
            async for message in subscription.messages:
                try:
                    frame = decode(message.data, message.subject)
                except InvalidInputError as error:
                    if unreadable is not None:
                        unreadable(error)
                    continue
                yield frame
        finally:
            await subscription.unsubscribe()

    async def pools(self) -> list[PoolStatus]:
        """Return every pool on every node."""
        return list((await bucket_items(self._js, "pools", PoolStatus)).values())

    async def queue_depth(self) -> int:
        """Return how many jobs wait or run."""
        return int((await self._js.stream_info("JOBS")).state.messages)

    async def results_fill(self) -> float:
        """Return how full the stream of results is, 0 to 1."""
        info = await self._js.stream_info("RESULTS")
        most = info.config.max_bytes or 0
        return info.state.bytes / most if most > 0 else 0.0

    async def decisions(self, limit: int = 50) -> list[Decision]:
        """Return the newest commands with their outcomes, oldest first."""
        outcomes = {
            o.command_id: o
            for o in await last_messages(self._js, "OUTCOMES", subjects.OUTCOMES, CommandOutcome, limit=limit * 4)
        }
        found: list[Decision] = []
        for kind, model in COMMAND_KINDS.items():
            for command in await last_messages(self._js, "COMMANDS", f"commands.{kind}.>", model, limit=limit):
                outcome = outcomes.get(command.id)
                found.append(Decision(command=command, kind=kind, target=command.target, outcome=outcome))
        return sorted(found, key=lambda d: d.command.at)[-limit:]

    async def recommendations(self, limit: int = 50) -> list[Recommendation]:
        """Return the newest recommendations, oldest first."""
        return await last_messages(self._js, "RECOMMENDATIONS", subjects.RECOMMENDATIONS, Recommendation, limit=limit)

    async def decision_records(self, limit: int = 50) -> list[DecisionRecord]:
        """Return the newest decisions about pools, with or without a command, oldest first."""
        return await last_messages(self._js, "DECISIONS", subjects.DECISIONS, DecisionRecord, limit=limit)

    async def explain(self, decision: str) -> Explanation:
        """Return what was observed, considered and allowed, by the id of a decision or its command.

        Raises NotFoundError.
        """
        try:
            message = await self._js.get_last_msg("DECISIONS", subjects.decision(decision), direct=True)
            record = DecisionRecord.model_validate_json(message.data or b"")
        except (NotFoundError, ValidationError):
            kept = await self.decision_records(1000)
            found = next((r for r in reversed(kept) if r.command_id == decision), None)
            if found is None:
                raise Missing(f"no decision {decision!r}: `autopilot decisions` lists them") from None
            record = found
        outcome = None
        if record.command_id:
            with suppress(NotFoundError, ValidationError):
                last = await self._js.get_last_msg("OUTCOMES", subjects.outcome(record.command_id), direct=True)
                outcome = CommandOutcome.model_validate_json(last.data or b"")
        return Explanation(record=record, outcome=outcome)

    async def reports(self) -> list[str]:
        """Return the weeks that have a report, the newest last."""
        store = await self._js.object_store("artifacts")
        try:
            names = [entry.name or "" for entry in await store.list(ignore_deletes=True)]
        except NotFoundError:
            return []
        return sorted(name.removeprefix(REPORT_PREFIX) for name in names if name.startswith(REPORT_PREFIX))

    async def report(self, week: str) -> bytes:
        """Return the HTML report of a week such as 2026-W47.

        Raises NotFoundError, InvalidInputError and UnavailableError.
        """
        try:
            return await read_object(self._js, "artifacts", name_of_week(week))
        except Missing as error:
            known = ", ".join(await self.reports()) or "none yet"
            raise Missing(f"no report of week {week}: there are {known}") from error
