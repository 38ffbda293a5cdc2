"""Control pool sizes: every policy proposes; the champion's proposal is bounded, placed on nodes and commanded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.errors import AutopilotError, UnavailableError
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import (
    BatchCommand,
    Considered,
    DecisionRecord,
    FleetPolicy,
    ScaleCommand,
)
from accelerator_autopilot.runtime.cooperative_loops import CooperativeLoop
from accelerator_autopilot.scheduler.application.autonomy_gate import AutonomyGate
from accelerator_autopilot.scheduler.application.bounded_concurrency import in_flight
from accelerator_autopilot.scheduler.domain.batch_delay_lease import LEASE_S, BatchDelays, bounded_s
from accelerator_autopilot.scheduler.domain.champion_challenger import ChampionChallenger
from accelerator_autopilot.scheduler.domain.governor import Governor, Verdict
from accelerator_autopilot.scheduler.domain.lateness_cost import late_weight
from accelerator_autopilot.scheduler.domain.observation import PoolObservation, Proposal
from accelerator_autopilot.scheduler.domain.placement import NodeRoom, spread
from accelerator_autopilot.scheduler.policies.shadow_policies import PolicyProposals, ShadowPolicies

log = logging.getLogger(__name__)

SILENT = ("no_change", "waiting_to_settle")
MIN_LEVEL_CHANGE = 0.25  # a change of the power level that is worth recording


class DecisionError(AutopilotError):
    """Some decisions failed; the others were made."""


@dataclass(frozen=True)
class _Plan:
    """The decision for one pool."""

    seen: PoolObservation
    considered: PolicyProposals
    proposal: Proposal
    verdict: Verdict
    delay_s: float | None  # batch delay to send to its workers
    news: bool  # whether it is worth recording


@dataclass
class PoolController:
    """Decides for all pools at once."""

    actor: AutonomyGate
    runner: ShadowPolicies
    governor: Governor
    champion_challenger: ChampionChallenger
    batch_delays: BatchDelays = field(default_factory=BatchDelays)
    levels: dict[str, float] = field(default_factory=dict)  # power level by pool, 0 cheapest to 1 full
    _recorded: dict[str, tuple[str, float]] = field(default_factory=dict)

    async def decide(
        self,
        pools: Sequence[PoolObservation],
        rooms: Callable[[str], list[NodeRoom]],
        policy: FleetPolicy,
        token: int,
    ) -> None:
        """Run one round. `rooms` returns the nodes that a pool can use, for pools that are about to change."""
        # In a thread, since the first round may show an hour of observations.
        proposals = await asyncio.to_thread(self.runner.propose, pools, late_weight(policy, self.actor.clock()))
        failed: list[Exception] = []
        plans: list[_Plan] = []
        turns = CooperativeLoop()
        for seen in pools:
            try:
                plan = self._judge(seen, proposals[seen.pool], policy)
            except Exception as error:  # noqa: BLE001  of one pool; the others go on
                self._count_failure(seen, error, failed)
            else:
                plans += [plan] if plan is not None else []
            await turns.give()

        async def carry_out(plan: _Plan) -> None:
            try:
                await self._carry_out(plan, rooms, policy, token)
            except UnavailableError:
                raise
            except Exception as error:  # noqa: BLE001  of one pool; the others go on
                self._count_failure(plan.seen, error, failed)

        await in_flight(plans, carry_out, left_out=self._not_sent)
        if failed:
            raise DecisionError(f"{len(failed)} of {len(pools)} pools: {type(failed[0]).__name__}") from failed[0]

    def _count_failure(self, seen: PoolObservation, error: Exception, failed: list[Exception]) -> None:
        self.actor.count("failed")
        log.error("no decision for a pool", extra={"pool": seen.pool}, exc_info=error)
        failed.append(error)

    def _judge(self, seen: PoolObservation, considered: PolicyProposals, policy: FleetPolicy) -> _Plan | None:
        """Return what to send and publish for a pool; None where there is nothing."""
        proposal = considered.by(seen.bounds.policy or "") or considered.by(self.champion_challenger.deciding)
        if proposal is None:
            self.actor.count("absurd_data")
            return None
        acts = policy.autonomy(seen.pool) == "act"
        verdict = Verdict(None, "absurd_data") if seen.absurd else self.governor.judge(seen, proposal, acts=acts)
        self.actor.count(verdict.reason)
        delay_s: float | None = None
        if not seen.absurd:
            self.levels[seen.pool] = proposal.power_level
            delay_s = round(bounded_s(proposal.batch_delay_s, seen.bounds), 3)
            delay_s = delay_s if self.batch_delays.due(seen.pool, delay_s, seen.at) else None
        news = self._worth_telling(seen.pool, proposal, verdict)
        if verdict.replicas is None and not news and delay_s is None:
            return None
        return _Plan(seen, considered, proposal, verdict, delay_s, news)

    def _not_sent(self, plan: _Plan) -> None:
        if plan.verdict.replicas is not None:
            self.governor.not_sent(plan.seen.pool)

    async def _carry_out(
        self, plan: _Plan, rooms: Callable[[str], list[NodeRoom]], policy: FleetPolicy, token: int
    ) -> None:
        seen, verdict = plan.seen, plan.verdict
        decision = new_id()
        sent: ScaleCommand | None = None
        try:
            if plan.delay_s is not None:
                await self._let_jobs_wait(seen, plan.delay_s, policy, token)
            if verdict.replicas is not None:
                command = ScaleCommand(
                    **self.actor.base(token, verdict.reason, seen.numbers | {"wanted": float(plan.proposal.replicas)}),
                    pool=seen.pool,
                    replicas=verdict.replicas,
                    nodes=_shares(verdict.replicas, rooms(seen.pool), policy),
                    decision=decision,
                )
                was_sent = await self.actor.act(
                    policy.autonomy(seen.pool),
                    subjects.scale_command(seen.pool),
                    command,
                    scope=seen.pool,
                    action=f"scale to {verdict.replicas}",
                    effect=f"{seen.desired} to {verdict.replicas} workers",
                    decision=decision,
                )
                sent = command if was_sent else None
        except UnavailableError:
            self._not_sent(plan)
            raise
        if plan.news:
            await self.actor.record(_record(decision, plan, policy, sent))

    async def _let_jobs_wait(self, seen: PoolObservation, delay_s: float, policy: FleetPolicy, token: int) -> None:
        command = BatchCommand(
            **self.actor.base(token, "batch_delay", seen.numbers), pool=seen.pool, delay_s=delay_s, lease_s=LEASE_S
        )
        self.actor.count("batch_delay")
        await self.actor.act(
            policy.autonomy(seen.pool),
            subjects.batch_command(seen.pool),
            command,
            scope=f"{seen.pool}/batch",
            action=f"let jobs wait {delay_s:g} s for a fuller batch",
            effect="fewer, larger batches",
        )
        self.batch_delays.record_sent(seen.pool, delay_s, seen.at)

    def _worth_telling(self, pool: str, proposal: Proposal, verdict: Verdict) -> bool:
        reason, level = self._recorded.get(pool, ("", -1.0))
        news = verdict.reason not in SILENT and verdict.reason != reason
        if verdict.replicas is None and not news and abs(level - proposal.power_level) < MIN_LEVEL_CHANGE:
            return False
        self._recorded[pool] = (verdict.reason, proposal.power_level)
        return True


def _shares(replicas: int, rooms: Sequence[NodeRoom], policy: FleetPolicy) -> dict[str, int] | None:
    """Return workers by node: nodes that are not named keep what they have, which includes unseen ones."""
    if len(rooms) == 1:
        return {rooms[0].node: replicas}
    return spread(replicas, rooms, policy.shares) if rooms else None


def _record(decision: str, plan: _Plan, policy: FleetPolicy, sent: ScaleCommand | None) -> DecisionRecord:
    seen, considered, proposal, verdict = plan.seen, plan.considered, plan.proposal, plan.verdict
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
