"""Commands, their outcomes, recommendations, and the policy that bounds them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.messages.base import Message, Name, Timestamp


class Command(Message):
    """What every command carries: who wants it, why, and until when it may be carried out."""

    id: Name
    issuer: Name
    reason: Name
    at: Timestamp
    expires_at: Timestamp
    fencing_token: int | None = None
    evidence: dict[str, float] = {}


class PowerCommand(Command):
    """Cap a device's power, or lock its clock, for a while; neither of the two restores its default."""

    node: Name
    device: Name
    cap_w: float | None = Field(default=None, gt=0)
    clock_mhz: float | None = Field(default=None, gt=0)
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


class ScaleCommand(Command):
    """Set the number of workers of a pool."""

    pool: Name
    replicas: int = Field(ge=0, le=10_000)


class DrainCommand(Command):
    """Take a device out of service or back: cordon (no new work), drain (finish and stop), restore."""

    node: Name
    device: Name
    action: Literal["cordon", "drain", "restore"]


class CommandOutcome(Message):
    """What became of a command, with what was read back from the device or pool.

    Of a power cap: `requested` as it was asked for, `applied` as the device took it, `read_back` as
    it is enforced, the least of all limiters.
    """

    id: Name
    command_id: Name
    command: Literal["power", "scale", "drain"]
    target: str
    status: Literal["applied", "refused", "expired"]
    detail: str = ""
    requested: float | None = None
    applied: float | None = None
    read_back: float | None = None
    at: Timestamp
    executor: Name


class Recommendation(Message):
    """What the scheduler would do, and why."""

    id: Name
    scope: Name
    action: str
    reason: str
    expected_effect: str
    confidence: float = Field(ge=0, le=1)
    evidence: dict[str, float] = {}
    at: Timestamp


class PoolPolicy(Message):
    """The operator's bounds for one pool."""

    floor: int = Field(default=1, ge=0)
    ceiling: int = Field(default=4, ge=0)
    step_up: int = Field(default=4, ge=1)
    step_down: int = Field(default=1, ge=1)
    scale_down_after_s: float = Field(default=30.0, ge=0)
    target_wait_s: float = Field(default=5.0, gt=0)


class FleetPolicy(Message):
    """The operator's bounds for the fleet; KV `policy`, key `fleet`."""

    mode: Literal["observe", "advise", "act"] = "act"
    power: Literal["off", "simulated", "all"] = "simulated"
    power_floor_fraction: float = Field(default=0.5, ge=0, le=1)
    cap_fraction: float | None = Field(
        default=0.8,
        gt=0,
        le=1,
        description="cap, of the default, that holds while no jobs wait; none caps nothing",
    )
    max_drained_fraction: float = Field(default=0.5, ge=0, le=1)
    pools: dict[str, PoolPolicy] = {}

    def pool(self, name: str) -> PoolPolicy:
        """The bounds of a pool, or the defaults."""
        return self.pools.get(name, PoolPolicy())


class DeviceSet(Message):
    """A set of devices kept in a bucket: cordoned ones of a node, or those that a scheduler drained."""

    devices: list[tuple[str, str]] = []
