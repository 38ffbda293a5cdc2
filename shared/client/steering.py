"""Operator commands and policy."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Literal, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, NotFoundError
from pydantic import ValidationError

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import ConflictError, InvalidInputError, UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.base import Message, OwnedMessage
from accelerator_autopilot.contracts.messages.commands import (
    COMMAND_KINDS,
    AnyCommand,
    Command,
    CommandOutcome,
    DrainCommand,
    FleetPolicy,
    PowerCommand,
    Recommendation,
    ScaleCommand,
)
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.contracts.messages.telemetry import SimulationReply, SimulationRequest
from accelerator_autopilot.contracts.projects import DEFAULT_PROJECT
from accelerator_autopilot.transport import audit_records
from accelerator_autopilot.transport.clock import utc_now
from accelerator_autopilot.transport.direct_reads import bucket_items
from accelerator_autopilot.transport.policy_bucket import POLICY_BUCKET, POLICY_KEY, parse_policy
from accelerator_autopilot.transport.publish_retries import publish_patiently

COMMAND_TTL_S = 30.0
# For a recommendation without its own expiry.
ADVICE_VALID = timedelta(hours=1)
C = TypeVar("C", bound=Command)
Owned = TypeVar("Owned", bound=OwnedMessage)
_BASE = frozenset(Command.model_fields)


class Steering:
    """Cap, scale, drain, simulate, and set the policy."""

    def __init__(self, nc: Client, js: JetStreamContext, actor: str, project: str = DEFAULT_PROJECT) -> None:
        self._nc, self._js, self._actor, self._project = nc, js, actor, project

    async def cap_power(
        self,
        node: str,
        device: str,
        cap_w: float | None,
        *,
        clock_mhz: float | None = None,
        lease_s: float = 60.0,
        reason: str = "operator",
    ) -> PowerCommand:
        """Request a power cap, a clock limit, or both, for a limited time; neither restores the default."""
        wanted = {"cap_w": cap_w, "clock_mhz": clock_mhz, "lease_s": lease_s}
        command = self._build(PowerCommand, reason, node=node, device=device, **wanted)
        await self._command("power", subjects.power_command(node, device), command)
        return command

    async def scale(self, pool: str, replicas: int, *, reason: str = "operator") -> ScaleCommand:
        """Request a number of workers, on all of the pool's nodes together."""
        parts = (await bucket_items(self._js, "pools", PoolStatus)).values()
        nodes = sorted({part.node for part in parts if part.pool == pool})
        each, more = divmod(replicas, max(1, len(nodes)))
        shares = {node: each + (number < more) for number, node in enumerate(nodes)} if len(nodes) > 1 else None
        command = self._build(ScaleCommand, reason, pool=pool, replicas=replicas, nodes=shares)
        await self._command("scale", subjects.scale_command(pool), command)
        return command

    async def drain(
        self,
        node: str,
        device: str,
        action: Literal["cordon", "drain", "restore"],
        *,
        reason: str = "operator",
    ) -> DrainCommand:
        """Take a device out of service or back."""
        command = self._build(DrainCommand, reason, node=node, device=device, action=action)
        await self._command("drain", subjects.drain_command(node, device), command)
        return command

    async def approve(self, recommendation: Recommendation) -> AnyCommand:
        """Apply a recommendation in the operator's name.

        Raises InvalidInputError for one without a command, and ConflictError for an expired one.
        """
        kind = (recommendation.subject or "").split(".")[1:2]
        model = COMMAND_KINDS.get(kind[0]) if kind else None
        if model is None or recommendation.command is None or recommendation.subject is None:
            raise InvalidInputError("recommendation", recommendation.id, "has no command to apply")
        until = recommendation.expires_at or recommendation.at + ADVICE_VALID
        if utc_now() > until:
            raise ConflictError(
                f"recommendation {recommendation.id} expired at {until:%Y-%m-%d %H:%M:%S} UTC; the scheduler "
                "renews it if it still applies"
            )
        fields = {name: value for name, value in recommendation.command.items() if name not in _BASE}
        command = self._build(model, f"approved-{recommendation.id}", **fields)
        await self._command(kind[0], recommendation.subject, command)
        return command

    async def recommend(self, recommendation: Recommendation) -> None:
        """Publish a recommendation."""
        await self._send(subjects.recommendation(recommendation.scope), recommendation)

    async def outcome(self, command_id: str, timeout_s: float = 10.0) -> CommandOutcome:
        """Wait for the outcome of a command. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    message = await self._js.get_last_msg("OUTCOMES", subjects.outcome(command_id), direct=True)
                    return CommandOutcome.model_validate_json(message.data or b"")
                except (NotFoundError, ValidationError):
                    await asyncio.sleep(0.05)

    async def simulate(self, node: str, request: SimulationRequest) -> None:
        """Control a simulated device. Raises InvalidInputError, or UnavailableError when nobody simulates."""
        try:
            body = self._owned(request).model_dump_json().encode()
            reply = await self._nc.request(subjects.simulate(node), body, timeout=3)
        except (nats.errors.Error, TimeoutError) as error:
            raise UnavailableError(f"node {node!r} has no simulated devices: {type(error).__name__}") from error
        answer = SimulationReply.model_validate_json(reply.data)
        if not answer.ok:
            raise InvalidInputError("device", request.device, answer.error)

    async def policy(self) -> FleetPolicy:
        """Return the operator's policy, or the defaults; an unreadable one allows only observation."""
        kv = await self._js.key_value(POLICY_BUCKET)
        try:
            value = (await kv.get(POLICY_KEY)).value
        except KeyNotFoundError:
            value = None
        return parse_policy(value)

    async def set_policy(self, policy: FleetPolicy) -> None:
        """Replace the policy."""
        told = {"mode": policy.mode, "power": policy.power}
        entry = audit_records.record(self._actor, "policy.set", POLICY_KEY, self._project, **told)
        await audit_records.write(self._js, entry)
        policy = self._owned(policy)
        kv = await self._js.key_value("policy")
        await kv.put(POLICY_KEY, policy.model_dump_json().encode())

    def _owned(self, message: Owned) -> Owned:
        return message.model_copy(update={"actor": self._actor, "project": self._project})

    def _build(self, model: type[C], reason: str, **fields: object) -> C:
        now = utc_now()
        base = {"id": new_id(), "issuer": self._actor, "reason": reason, "at": now, "project": self._project}
        try:
            return model.model_validate(base | {"expires_at": now + timedelta(seconds=COMMAND_TTL_S)} | fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInputError(str(first["loc"][0]), first["input"], first["msg"]) from error

    async def _command(self, kind: str, subject: str, command: AnyCommand) -> None:
        """No command without its record: the audit comes first."""
        wanted = command.model_dump(mode="json", exclude_none=True, exclude={*_BASE, "decision"})
        detail = {name: str(value)[: audit_records.SHORT] for name, value in wanted.items()}
        entry = audit_records.record(
            self._actor,
            f"command.{kind}",
            command.target,
            self._project,
            command=command.id,
            reason=command.reason,
            **detail,
        )
        await audit_records.write(self._js, entry)
        await self._send(subject, command)

    async def _send(self, subject: str, message: Message) -> None:
        identity = str(getattr(message, "id"))  # noqa: B009  commands and records have one, the base has not
        try:
            await publish_patiently(self._js, subject, message.model_dump_json().encode(), {"Nats-Msg-Id": identity})
        except nats.errors.Error as error:
            raise UnavailableError(f"{subject} was not confirmed: {error}") from error
