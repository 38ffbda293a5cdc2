"""One round of decisions: look, propose, bound, command; advise instead where the operator wants that."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter
from pydantic import ValidationError

from services.scheduler.adapters.fleet_reader import FleetReader
from services.scheduler.domain.devices import Device, caps, drains
from services.scheduler.domain.governor import Governor
from services.scheduler.domain.observation import PoolObservation, Proposal, Reason
from services.scheduler.domain.policy import Policy
from shared import subjects
from shared.bus import Bus
from shared.clock import Clock
from shared.ids import new_id
from shared.messages.commands import DeviceSet, DrainCommand, FleetPolicy, PowerCommand, Recommendation, ScaleCommand
from shared.messages.jobs import PoolStatus

log = logging.getLogger(__name__)

COMMAND_TTL = timedelta(seconds=15)
ADVISE_AGAIN = timedelta(minutes=1)
DRAIN_SETTLES = timedelta(seconds=5)


@dataclass
class Decider:
    """Decides for the whole fleet while this process leads."""

    bus: Bus
    reader: FleetReader
    policy: Policy
    clock: Clock
    decisions: Counter
    cap_lease_s: float
    governor: Governor = field(default_factory=Governor)
    _caps: dict[Device, tuple[float, datetime]] = field(default_factory=dict)
    _drains: dict[Device, datetime] = field(default_factory=dict)
    _advised: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    async def decide(self, token: int) -> None:
        """One round with this fencing token."""
        now = self.clock()
        policy = await self.bus.policy()
        pools = await self.reader.pools(now)
        if not pools:
            self._count("missing_data")
        full_power = False
        for status in pools:
            seen = await self.reader.observe(status, policy, now)
            if seen is None:
                self._count("missing_data")
                continue
            proposal = self.policy.propose(seen)
            full_power = full_power or proposal.full_power
            await self._scale(seen, proposal, policy, token)
        await self._drain(pools, policy, token)
        if pools:
            await self._cap(policy, token, full_power=full_power, now=now)

    async def _scale(self, seen: PoolObservation, proposal: Proposal, policy: FleetPolicy, token: int) -> None:
        verdict = self.governor.judge(seen, proposal)
        self._count(verdict.reason)
        if verdict.replicas is None:
            return
        command = ScaleCommand(
            **self._base(token, verdict.reason, proposal.evidence), pool=seen.pool, replicas=verdict.replicas
        )
        effect = f"{seen.desired} to {verdict.replicas} workers"
        await self._act(
            policy,
            subjects.scale_command(seen.pool),
            command,
            scope=seen.pool,
            action=f"scale to {verdict.replicas}",
            effect=effect,
        )

    async def _drain(self, pools: list[PoolStatus], policy: FleetPolicy, token: int) -> None:
        fleet = set(await self.reader.devices())
        cordoned = {(p.node, device) for p in pools for device in p.cordoned}
        now = self.clock()
        on_the_way = {d for d, at in self._drains.items() if now - at < DRAIN_SETTLES}
        known = await self._drained_by_us()
        # A device is ours until it was seen back in service: a restore that got lost is sent again.
        ours = known & (cordoned | on_the_way)
        if ours != known:
            await self._remember_drained(ours)
        for decision in drains(await self.reader.critical(), ours, cordoned, fleet, policy):
            self._count(decision.reason)
            if decision.action is None or decision.device in on_the_way:
                continue
            node, device = decision.device
            evidence = {"cordoned": float(len(cordoned)), "fleet": float(len(fleet))}
            command = DrainCommand(
                **self._base(token, decision.reason, evidence),
                node=node,
                device=device,
                action=decision.action,
            )
            sent = await self._act(
                policy,
                subjects.drain_command(node, device),
                command,
                scope=f"{node}/{device}",
                action=decision.action,
                effect="no job runs on a device with a critical alert",
            )
            if sent:
                self._drains[decision.device] = now
                if decision.action == "drain":
                    ours = ours | {decision.device}
                    await self._remember_drained(ours)

    async def _cap(self, policy: FleetPolicy, token: int, *, full_power: bool, now: datetime) -> None:
        devices = await self.reader.devices()
        wanted = caps(
            devices,
            self.reader.caps_now_w(now),
            self._caps,
            policy,
            full_power=full_power,
            now=now,
            lease_s=self.cap_lease_s,
        )
        for decision in wanted:
            self._count(decision.reason)
            node, device = decision.device
            evidence = {"default_w": devices[decision.device].power_default_w or 0.0}
            command = PowerCommand(
                **self._base(token, decision.reason, evidence),
                node=node,
                device=device,
                cap_w=decision.cap_w,
                lease_s=self.cap_lease_s,
            )
            action = f"cap at {decision.cap_w:g} W" if decision.cap_w else "lift the cap"
            sent = await self._act(
                policy,
                subjects.power_command(node, device),
                command,
                scope=f"{node}/{device}",
                action=action,
                effect="less energy a job",
            )
            if sent and decision.cap_w is not None:
                self._caps[decision.device] = (decision.cap_w, now)

    async def _act(
        self,
        policy: FleetPolicy,
        subject: str,
        command: ScaleCommand | DrainCommand | PowerCommand,
        *,
        scope: str,
        action: str,
        effect: str,
    ) -> bool:
        """Send the command in mode act, recommend it in mode advise; True when it was sent."""
        if policy.mode == "act":
            await self.bus.publish(subject, command, command.id)
            log.info(
                "command",
                extra={"scope": scope, "action": action, "reason": command.reason, "id": command.id},
            )
            return True
        self._count("mode_observe")
        told, at = self._advised.get(scope, ("", command.at - 2 * ADVISE_AGAIN))
        if policy.mode == "advise" and (told != action or command.at - at > ADVISE_AGAIN):
            self._advised[scope] = (action, command.at)
            advice = Recommendation(
                id=new_id(),
                scope=scope,
                action=action,
                reason=command.reason,
                expected_effect=effect,
                confidence=0.5,
                evidence=command.evidence,
                at=command.at,
            )
            await self.bus.publish(subjects.recommendation(scope), advice, advice.id)
        return False

    def _base(self, token: int, reason: Reason, evidence: dict[str, float]) -> dict[str, Any]:
        now = self.clock()
        return {
            "id": new_id(),
            "issuer": "scheduler",
            "reason": reason,
            "at": now,
            "expires_at": now + COMMAND_TTL,
            "fencing_token": token,
            "evidence": evidence,
        }

    def _count(self, reason: Reason) -> None:
        self.decisions.labels(reason).inc()

    async def _drained_by_us(self) -> set[Device]:
        try:
            kept = await self.bus.read("scheduler", "drained", DeviceSet)
        except ValidationError:
            log.warning("list of drained devices is unreadable: those are for an operator to restore")
            kept = None
        return set(kept.devices) if kept else set()

    async def _remember_drained(self, devices: set[Device]) -> None:
        await self.bus.write("scheduler", "drained", DeviceSet(devices=sorted(devices)))
