"""Commands, their outcomes, recommendations, and the policy that bounds them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import Label, Message, Name, Text, Timestamp

Autonomy = Literal["observe", "advise", "approve", "act"]


class Command(Message):
    """What every command carries: who wants it, why, and until when it may be carried out."""

    id: Name
    issuer: Name
    reason: Name
    at: Timestamp
    expires_at: Timestamp
    fencing_token: int | None = Field(default=None, ge=0, lt=2**63)
    evidence: dict[Label, float] = {}


class DeviceCommand(Command):
    """One about a device."""

    node: Name
    device: Name

    @property
    def target(self) -> str:
        """What it is about."""
        return f"{self.node}/{self.device}"


class PoolCommand(Command):
    """One about a pool."""

    pool: Name

    @property
    def target(self) -> str:
        """What it is about."""
        return self.pool


class PowerCommand(DeviceCommand):
    """Cap a device's power, or lock its clock, for a while; neither of the two restores its default."""

    cap_w: float | None = Field(default=None, gt=0)
    clock_mhz: float | None = Field(default=None, gt=0)
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


class ScaleCommand(PoolCommand):
    """Set the number of workers of a pool."""

    replicas: int = Field(ge=0, le=10_000, description="on all nodes together, where `nodes` is given")
    nodes: dict[Name, Annotated[int, Field(ge=0, le=10_000)]] | None = Field(
        default=None, description="on each node; else every node has `replicas`"
    )
    decision: Name | None = None


class DrainCommand(DeviceCommand):
    """Take a device out of service or back: cordon (no new work), drain (finish and stop), restore."""

    action: Literal["cordon", "drain", "restore"]


class BatchCommand(PoolCommand):
    """Let a pool's jobs wait for company in a batch, for a while; then none waits any more."""

    delay_s: float = Field(ge=0, le=60, description="after the first job of a batch came")
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


AnyCommand = PowerCommand | ScaleCommand | DrainCommand | BatchCommand
COMMAND_KINDS: dict[str, type[AnyCommand]] = {
    "power": PowerCommand,
    "scale": ScaleCommand,
    "drain": DrainCommand,
    "batch": BatchCommand,
}


class CommandOutcome(Message):
    """What became of a command, with what was read back from the device or pool.

    Of a power cap: `requested` as it was asked for, `applied` as the device took it, `read_back` as
    it is enforced, the least of all limiters.
    """

    id: Name
    command_id: Name
    command: Literal["power", "scale", "drain", "batch"]
    target: Label
    status: Literal["applied", "refused", "expired"]
    detail: Text = ""
    requested: float | None = None
    applied: float | None = None
    read_back: float | None = None
    at: Timestamp
    executor: Name


class Recommendation(Message):
    """What the scheduler would do, and why."""

    id: Name
    scope: Name
    action: Text
    reason: Text
    expected_effect: Text
    confidence: float = Field(ge=0, le=1)
    evidence: dict[Label, float] = {}
    at: Timestamp
    decision: Name | None = Field(default=None, description="the decision that it comes from")
    subject: Annotated[str, Field(max_length=1023)] | None = Field(
        default=None, description="where its command goes when it is approved"
    )
    command: dict[str, Any] | None = None
    expires_at: Timestamp | None = Field(default=None, description="until when it can be approved; an hour without")


class Considered(Message):
    """What one policy would have done."""

    policy: Name
    replicas: int = Field(ge=0, le=100_000)
    power_level: float = Field(description="0: the cheapest cap of the curve; 1: full power")
    batch_delay_s: float = Field(default=0.0, description="how long a job waits for company in a batch")
    chosen: bool = False


class DecisionRecord(Message):
    """A decision about a pool: what was seen, considered, allowed, and what came of it."""

    id: Name
    pool: Name
    at: Timestamp
    autonomy: Autonomy
    seen: dict[Label, float]
    considered: list[Considered] = Field(max_length=1000)
    wanted: int = Field(ge=0, le=100_000)
    allowed: int | None = Field(ge=0, le=100_000, description="none where nothing was changed")
    reason: Name
    explanation: Text
    command_id: Name | None = None


class PoolPolicy(Message):
    """The operator's bounds for one pool."""

    floor: int = Field(default=1, ge=0, le=10_000)
    ceiling: int = Field(default=4, ge=0, le=10_000)
    step_up: int = Field(default=4, ge=1, le=10_000)
    step_down: int = Field(default=1, ge=1, le=10_000)
    scale_down_after_s: float = Field(default=30.0, ge=0, le=604_800)
    target_wait_s: float = Field(
        default=5.0, gt=0, le=604_800, description="how long a job may wait beyond its own work"
    )
    autonomy: Autonomy | None = Field(default=None, description="the fleet's mode, unless given")
    policy: Name | None = Field(default=None, description="this policy and no other; none lets the champion decide")
    batch_delay_max_s: float = Field(
        default=0.0, ge=0, le=60, description="a job waits no longer for company in a batch"
    )
    actions_per_min: int = Field(default=30, ge=1, le=100_000, description="changes of its size in a minute, at most")
    manual_hold_s: float = Field(
        default=300.0, ge=0, le=604_800, description="hands off after an operator's scale command"
    )
    load_time_s: float = Field(default=5.0, gt=0, le=86_400, description="from start to ready, until it was measured")


class TimedValue(Message):
    """A value for a part of each day, UTC; one that ends before it begins goes over midnight."""

    start: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    end: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    value: float = Field(ge=0)


class Objective(Message):
    """What counts how much; only the relation of the weights matters."""

    energy: float = Field(default=1.0, ge=0)
    cost: float = Field(default=0.0, ge=0)
    carbon: float = Field(default=0.0, ge=0)
    latency: float = Field(default=1.0, ge=0)


class PowerBudget(Message):
    """Watts that the caps of some devices may add up to; the narrowest that applies holds."""

    watts: float = Field(gt=0)
    nodes: list[Name] | None = Field(
        default=None, max_length=100_000, description="the whole fleet, unless given; a rack is its nodes"
    )
    start: str = Field(default="00:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    end: str = Field(default="00:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="as the start: all day")


_DEFAULT_BOUNDS = PoolPolicy()


class FleetPolicy(Message):
    """The operator's bounds for the fleet; KV `policy`, key `fleet`."""

    mode: Autonomy = "act"
    power: Literal["off", "simulated", "all"] = "simulated"
    power_floor_fraction: float = Field(default=0.5, ge=0, le=1)
    cap_fraction: float | None = Field(
        default=0.8,
        gt=0,
        le=1,
        description="cap, of the default, that holds while no jobs wait; none caps nothing",
    )
    device_max_w: dict[str, float] = Field(default={}, description="watts at most, by node/device or model")
    budgets: list[PowerBudget] = Field(default=[], max_length=1000)
    prices: list[TimedValue] = Field(default=[], max_length=1000, description="of a kWh, by time of day")
    carbon: list[TimedValue] = Field(default=[], max_length=1000, description="grams of CO2 a kWh, by time of day")
    objective: Objective = Objective()
    shares: dict[str, float] = Field(default={}, description="of a pool's workers, by kind of accelerator")
    max_drained_fraction: float = Field(default=0.5, ge=0, le=1)
    pools: dict[str, PoolPolicy] = {}

    def pool(self, name: str) -> PoolPolicy:
        """The bounds of a pool, or the defaults."""
        return self.pools.get(name, _DEFAULT_BOUNDS)

    def autonomy(self, name: str) -> Autonomy:
        """How far the scheduler may go with a pool."""
        return self.pool(name).autonomy or self.mode


class ChampionStatus(Message):
    """Which scaling policy decides, and why; KV `scheduler`, key `champion`."""

    champion: Name
    deciding: Name = Field(description="the fall-back, where the champion left its predicted band")
    why: Text
    at: Timestamp


class DeviceSet(Message):
    """A set of devices kept in a bucket: cordoned ones of a node, or those that a scheduler drained."""

    devices: list[tuple[Name, Name]] = Field(default=[], max_length=100_000)
    reasons: dict[Name, Label] = Field(
        default={}, max_length=100_000, description="why the pool set a device aside by itself, by device"
    )


class DrainNote(Message):
    """A device that the scheduler drained."""

    node: Name
    device: Name
    at: Timestamp
    boot_id: str = Field(default="", max_length=200, description="the boot of its node when it was drained")
    driver_epoch: str = Field(default="", max_length=200, description="the load of its driver when it was drained")
    left: bool = Field(default=False, description="it left the fleet since: only a reset or an operator brings it back")


class DrainNotes(Message):
    """All devices that the scheduler drained; KV `scheduler`, key `drain_notes`."""

    notes: list[DrainNote] = Field(default=[], max_length=1_000_000)
