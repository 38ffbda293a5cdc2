"""The sizes of pools: every policy proposes, the champion's proposal is bounded, spread over nodes, and commanded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.scheduler.acting import Actor
from services.scheduler.domain.batch_delays import LEASE_S, BatchDelays, bounded_s
from services.scheduler.domain.champion import Championship
from services.scheduler.domain.governor import Governor, Verdict
from services.scheduler.domain.objective import late_weight
from services.scheduler.domain.observation import PoolObservation, Proposal
from services.scheduler.domain.panel import Opinions, Panel
from services.scheduler.domain.spread import NodeRoom, spread
from shared import subjects
from shared.errors import AutopilotError, UnavailableError
from shared.ids import new_id
from shared.messages.commands import BatchCommand, Considered, DecisionRecord, FleetPolicy, ScaleCommand

log = logging.getLogger(__name__)

SILENT = ("no_change", "waiting_to_settle")
LEVEL_TOLD = 0.25  # a change of the power level that is worth a record


class DecisionError(AutopilotError):
    """Something could not be decided; the rest was."""


@dataclass
class PoolDecider:
    """Decides for all pools at once."""

    actor: Actor
    panel: Panel
    governor: Governor
    championship: Championship
    batch_delays: BatchDelays = field(default_factory=BatchDelays)
    levels: dict[str, float] = field(default_factory=dict)  # power level by pool, 0 cheapest to 1 full
    _recorded: dict[str, tuple[str, float]] = field(default_factory=dict)

    async def decide(
        self,
        pools: Sequence[PoolObservation],
        rooms: Mapping[str, list[NodeRoom]],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        """One round."""
        # In a thread, since the first round may have an hour of looks to show.
        opinions = await asyncio.to_thread(self.panel.propose, pools, late_weight(policy, self.actor.clock()))
        failed: list[BaseException] = []
        for seen in pools:
            try:
                await self._decide_for(seen, opinions[seen.pool], rooms.get(seen.pool, []), policy, token)
            except UnavailableError:
                # What the bus does not take of one pool it does not take of the next.
                raise
            except Exception as error:
                self.actor.count("failed")
                log.exception("no decision for a pool", extra={"pool": seen.pool})
                failed.append(error)
        if failed:
            raise DecisionError(f"{len(failed)} of {len(pools)} pools: {type(failed[0]).__name__}") from failed[0]

    async def _decide_for(
        self,
        seen: PoolObservation,
        considered: Opinions,
        rooms: list[NodeRoom],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        proposal = considered.by(seen.bounds.policy or "") or considered.by(self.championship.deciding)
        if proposal is None:
            self.actor.count("absurd_data")
            return
        acts = policy.autonomy(seen.pool) == "act"
        verdict = Verdict(None, "absurd_data") if seen.absurd else self.governor.judge(seen, proposal, acts=acts)
        self.actor.count(verdict.reason)
        if not seen.absurd:
            self.levels[seen.pool] = proposal.power_level
            await self._let_jobs_wait(seen, proposal, policy, token)
        await self._carry_out(seen, proposal, considered, verdict, rooms, policy, token)

    async def _carry_out(
        self,
        seen: PoolObservation,
        proposal: Proposal,
        considered: Opinions,
        verdict: Verdict,
        rooms: Sequence[NodeRoom],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        news = self._worth_telling(seen.pool, proposal, verdict)
        if verdict.replicas is None and not news:
            return
        decision = new_id()
        sent: ScaleCommand | None = None
        if verdict.replicas is not None:
            evidence = seen.numbers | {"wanted": float(proposal.replicas)}
            command = ScaleCommand(
                **self.actor.base(token, verdict.reason, evidence),
                pool=seen.pool,
                replicas=verdict.replicas,
                nodes=_shares(verdict.replicas, rooms, policy),
                decision=decision,
            )
            try:
                was_sent = await self.actor.act(
                    policy.autonomy(seen.pool),
                    subjects.scale_command(seen.pool),
                    command,
                    scope=seen.pool,
                    action=f"scale to {verdict.replicas}",
                    effect=f"{seen.desired} to {verdict.replicas} workers",
                    decision=decision,
                )
            except UnavailableError:
                self.governor.not_sent(seen.pool)
                raise
            sent = command if was_sent else None
        if news:
            await self.actor.record(_record(decision, seen, proposal, considered, verdict, policy, sent))

    async def _let_jobs_wait(self, seen: PoolObservation, proposal: Proposal, policy: FleetPolicy, token: int) -> None:
        delay_s = round(bounded_s(proposal.batch_delay_s, seen.bounds), 3)
        if not self.batch_delays.due(seen.pool, delay_s, seen.at):
            return
        command = BatchCommand(
            **self.actor.base(token, "batch_delay", seen.numbers), pool=seen.pool, delay_s=delay_s, lease_s=LEASE_S
        )
        self.actor.count("batch_delay")
        await self.actor.act(
            policy.autonomy(seen.pool),
            subjects.batch_command(seen.pool),
            command,
            scope=f"{seen.pool}/batch",
            action=f"let jobs wait {delay_s:g} s for company",
            effect="fewer, larger batches",
        )
        self.batch_delays.told(seen.pool, delay_s, seen.at)

    def _worth_telling(self, pool: str, proposal: Proposal, verdict: Verdict) -> bool:
        reason, level = self._recorded.get(pool, ("", -1.0))
        news = verdict.reason not in SILENT and verdict.reason != reason
        if verdict.replicas is None and not news and abs(level - proposal.power_level) < LEVEL_TOLD:
            return False
        self._recorded[pool] = (verdict.reason, proposal.power_level)
        return True


def _shares(replicas: int, rooms: Sequence[NodeRoom], policy: FleetPolicy) -> dict[str, int] | None:
    """Workers by node: only who is named acts, so a node that nobody saw keeps what it has."""
    if len(rooms) == 1:
        return {rooms[0].node: replicas}
    return spread(replicas, rooms, policy.shares) if rooms else None


def _record(
    decision: str,
    seen: PoolObservation,
    proposal: Proposal,
    considered: Opinions,
    verdict: Verdict,
    policy: FleetPolicy,
    sent: ScaleCommand | None,
) -> DecisionRecord:
    bounds = seen.bounds
    allowed = "nothing changed" if verdict.replicas is None else f"{seen.desired} to {verdict.replicas} workers"
    return DecisionRecord(
        id=decision,
        pool=seen.pool,
        at=seen.at,
        autonomy=policy.autonomy(seen.pool),
        seen=seen.numbers | considered.expected,
        considered=[
            Considered(
                policy=p.policy,
                replicas=p.replicas,
                power_level=p.power_level,
                batch_delay_s=p.batch_delay_s,
                chosen=p == proposal,
            )
            for p in considered.all()
        ],
        wanted=proposal.replicas,
        allowed=verdict.replicas,
        reason=verdict.reason,
        explanation=(
            f"{seen.waiting} jobs waiting, the first for {seen.oldest_wait_s:.1f} s of {bounds.target_wait_s:g} s; "
            f"{seen.ready} workers ready, {seen.busy} busy, {seen.starting} starting. {proposal.policy} wants "
            f"{proposal.replicas} at power level {proposal.power_level:.2f}; the governor allows "
            f"{bounds.floor} to {max(bounds.floor, bounds.ceiling)}: {allowed} ({verdict.reason})"
        ),
        command_id=sent.id if sent else None,
    )
