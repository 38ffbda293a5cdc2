"""Turn a decision into a command, a recommendation or nothing, depending on the operator's autonomy setting."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter

from accelerator_autopilot.contracts import subjects
from accelerator_autopilot.contracts.ids import new_id
from accelerator_autopilot.contracts.messages.commands import AnyCommand, Autonomy, DecisionRecord, Recommendation
from accelerator_autopilot.runtime.bus import Bus
from accelerator_autopilot.scheduler.domain.observation import Reason
from accelerator_autopilot.transport.clock import Clock

log = logging.getLogger(__name__)

COMMAND_TTL = timedelta(seconds=15)
ADVICE_RENEWAL = timedelta(minutes=1)
# A recommendation is renewed while it holds; older evidence no longer counts.
ADVICE_VALID = timedelta(minutes=15)
NOT_SENT: dict[Autonomy, Reason] = {"observe": "mode_observe", "advise": "mode_advise", "approve": "mode_approve"}


@dataclass
class AutonomyGate:
    """Sends a command, publishes a recommendation, or does neither."""

    bus: Bus
    clock: Clock
    decisions: Counter
    _counters: dict[Reason, Counter] = field(default_factory=dict)
    _advised: dict[str, tuple[str, datetime]] = field(default_factory=dict)

    def count(self, reason: Reason) -> None:
        """Count one decision with this reason."""
        counter = self._counters.get(reason)
        if counter is None:
            counter = self._counters[reason] = self.decisions.labels(reason)
        counter.inc()

    def base(self, token: int, reason: Reason, evidence: dict[str, float]) -> dict[str, Any]:
        """Return the fields that every command of the scheduler carries."""
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

    async def act(
        self,
        autonomy: Autonomy,
        subject: str,
        command: AnyCommand,
        *,
        scope: str,
        action: str,
        effect: str,
        decision: str | None = None,
    ) -> bool:
        """Send or recommend; True when the command was sent."""
        if autonomy == "act":
            await self.bus.publish(subject, command, command.id)
            log.info("command", extra={"scope": scope, "action": action, "reason": command.reason, "id": command.id})
            return True
        self.count(NOT_SENT[autonomy])
        advised, at = self._advised.get(scope, ("", command.at - 2 * ADVICE_RENEWAL))
        if autonomy != "observe" and (advised != action or command.at - at > ADVICE_RENEWAL):
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
                decision=decision,
                subject=subject,
                command=command.model_dump(mode="json"),
                expires_at=command.at + ADVICE_VALID,
            )
            await self.bus.publish(subjects.recommendation(scope), advice, advice.id)
        return False

    async def record(self, record: DecisionRecord) -> None:
        """Record what was observed, considered and decided, for explanations."""
        await self.bus.publish(subjects.decision(record.id), record, record.id)
