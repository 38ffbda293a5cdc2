"""Commands, their outcomes, recommendations, and the policy that bounds them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from accelerator_autopilot.contracts.messages.base import Label, Message, Name, OwnedMessage, Text, Timestamp

Autonomy = Literal["observe", "advise", "approve", "act"]


class Command(OwnedMessage):
    """Base of all commands: who issued it, why, and when it expires."""

    ACTOR_FIELD: ClassVar[str] = "issuer"

    id: Name
    issuer: Name
    reason: Name
    at: Timestamp
    expires_at: Timestamp
    fencing_token: int | None = Field(default=None, ge=0, lt=2**63)
    evidence: dict[Label, float] = {}


class DeviceCommand(Command):
    """A command for one device."""

    node: Name
    device: Name

    @property
    def target(self) -> str:
        """The device or pool that it applies to."""
        return f"{self.node}/{self.device}"


class PoolCommand(Command):
    """A command for one pool."""

    pool: Name

    @property
    def target(self) -> str:
        """The device or pool that it applies to."""
        return self.pool


class PowerCommand(DeviceCommand):
    """Cap a device's power or lock its clock for the time of a lease; with neither, restore the default."""

    cap_w: float | None = Field(default=None, gt=0)
    clock_mhz: float | None = Field(default=None, gt=0)
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


class ScaleCommand(PoolCommand):
    """Set the number of workers of a pool."""

    replicas: int = Field(ge=0, le=10_000, description="total on all nodes if `nodes` is given")
    nodes: dict[Name, Annotated[int, Field(ge=0, le=10_000)]] | None = Field(
        default=None, description="workers per node; without it every node gets `replicas`"
    )
    decision: Name | None = None


class DrainCommand(DeviceCommand):
    """Take a device out of service or back: cordon (no new work), drain (finish and stop), restore."""

    action: Literal["cordon", "drain", "restore"]


class BatchCommand(PoolCommand):
    """Let a pool's jobs wait for others to share a batch, for the time of a lease."""

    delay_s: float = Field(ge=0, le=60, description="time to wait after the first job of a batch arrived")
    lease_s: float = Field(default=60.0, gt=0, le=86_400)


AnyCommand = PowerCommand | ScaleCommand | DrainCommand | BatchCommand
COMMAND_KINDS: dict[str, type[AnyCommand]] = {
    "power": PowerCommand,
    "scale": ScaleCommand,
    "drain": DrainCommand,
    "batch": BatchCommand,
}


class CommandOutcome(OwnedMessage):
    """The outcome of a command, with the value read back from the device or pool.

    For a power cap, `requested` is the value asked for, `applied` the value that the device accepted, and
    `read_back` the value enforced, the lowest of all limits.
    """

    ACTOR_FIELD: ClassVar[str] = "executor"

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


class Recommendation(OwnedMessage):
    """An action that the scheduler recommends, and why."""

    DEFAULT_ACTOR: ClassVar[str] = "scheduler"

    id: Name
    scope: Name
    action: Text
    reason: Text
    expected_effect: Text
    confidence: float = Field(ge=0, le=1)
    evidence: dict[Label, float] = {}
    at: Timestamp
    decision: Name | None = Field(default=None, description="id of the decision that led to it")
    subject: Annotated[str, Field(max_length=1023)] | None = Field(
        default=None, description="subject that its command is published to once approved"
    )
    command: dict[str, Any] | None = None
    expires_at: Timestamp | None = Field(
        default=None, description="time until which it can be approved; an hour by default"
    )


class Considered(Message):
    """The proposal of one policy."""

    policy: Name
    replicas: int = Field(ge=0, le=100_000)
    power_level: float = Field(description="0 is the most efficient power cap, 1 is full power")
    batch_delay_s: float = Field(default=0.0, description="time that a job may wait for others to share a batch")
    chosen: bool = False


class DecisionRecord(OwnedMessage):
    """A decision about a pool: what was observed, considered, allowed and commanded."""

    DEFAULT_ACTOR: ClassVar[str] = "scheduler"

    id: Name
    pool: Name
    at: Timestamp
    autonomy: Autonomy
    seen: dict[Label, float]
    considered: list[Considered] = Field(max_length=1000)
    wanted: int = Field(ge=0, le=100_000)
    allowed: int | None = Field(ge=0, le=100_000, description="null if nothing was changed")
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
        default=5.0, gt=0, le=604_800, description="waiting time of a job that the scheduler aims at"
    )
    autonomy: Autonomy | None = Field(default=None, description="overrides the fleet's mode")
    policy: Name | None = Field(default=None, description="policy to use for this pool; by default the champion")
    batch_delay_max_s: float = Field(
        default=0.0, ge=0, le=60, description="longest time that a job may wait for others to share a batch"
    )
    actions_per_min: int = Field(default=30, ge=1, le=100_000, description="most changes of the pool's size per minute")
    manual_hold_s: float = Field(
        default=300.0,
        ge=0,
        le=604_800,
        description="time after an operator's scale command during which the scheduler does not scale",
    )
    load_time_s: float = Field(
        default=5.0, gt=0, le=86_400, description="time from start to ready that is assumed until it has been measured"
    )


class TimedValue(Message):
    """A value for a part of each day, in UTC. A period that ends before it begins spans midnight."""

    start: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    end: str = Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    value: float = Field(ge=0)


class Objective(Message):
    """Weights of the scheduler's goals; only their ratios matter."""

    energy: float = Field(default=1.0, ge=0)
    cost: float = Field(default=0.0, ge=0)
    carbon: float = Field(default=0.0, ge=0)
    latency: float = Field(default=1.0, ge=0)


class PowerBudget(Message):
    """Upper limit for the sum of some devices' power caps; the strictest that applies is used."""

    watts: float = Field(gt=0)
    nodes: list[Name] | None = Field(
        default=None,
        max_length=100_000,
        description="nodes that it covers, for example those of a rack; the whole fleet by default",
    )
    start: str = Field(default="00:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    end: str = Field(
        default="00:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="equal to the start means all day"
    )


_DEFAULT_BOUNDS = PoolPolicy()


class FleetPolicy(OwnedMessage):
    """The operator's bounds for the fleet; KV `policy`, key `fleet`."""

    mode: Autonomy = "act"
    power: Literal["off", "simulated", "all"] = "simulated"
    power_floor_fraction: float = Field(default=0.5, ge=0, le=1)
    cap_fraction: float | None = Field(
        default=0.8,
        gt=0,
        le=1,
        description="power cap while no jobs wait, as a share of the default; null for no cap",
    )
    device_max_w: dict[str, float] = Field(
        default={}, description="highest power cap in watts, by node/device or model"
    )
    budgets: list[PowerBudget] = Field(default=[], max_length=1000)
    prices: list[TimedValue] = Field(default=[], max_length=1000, description="price per kWh by time of day")
    carbon: list[TimedValue] = Field(default=[], max_length=1000, description="grams of CO2 per kWh by time of day")
    objective: Objective = Objective()
    shares: dict[str, float] = Field(default={}, description="share of a pool's workers, by kind of accelerator")
    max_drained_fraction: float = Field(default=0.5, ge=0, le=1)
    pools: dict[str, PoolPolicy] = {}

    def pool(self, name: str) -> PoolPolicy:
        """The bounds of a pool, or the defaults."""
        return self.pools.get(name, _DEFAULT_BOUNDS)

    def autonomy(self, name: str) -> Autonomy:
        """How far the scheduler may go with a pool."""
        return self.pool(name).autonomy or self.mode


class ChampionStatus(OwnedMessage):
    """The active scaling policy, and why it is active; KV `scheduler`, key `champion`."""

    DEFAULT_ACTOR: ClassVar[str] = "scheduler"

    champion: Name
    deciding: Name = Field(description="the active policy: the fallback while the champion misses its predictions")
    why: Text
    at: Timestamp


class DeviceSet(OwnedMessage):
    """A set of devices kept in a bucket: those cordoned on a node, or those that the scheduler drained."""

    devices: list[tuple[Name, Name]] = Field(default=[], max_length=100_000)
    reasons: dict[Name, Label] = Field(
        default={}, max_length=100_000, description="why the pool itself cordoned a device, by device"
    )


class DrainNote(Message):
    """A device that the scheduler drained."""

    node: Name
    device: Name
    at: Timestamp
    boot_id: str = Field(default="", max_length=200, description="boot id of its node when it was drained")
    driver_epoch: str = Field(default="", max_length=200, description="id of the driver load when it was drained")
    left: bool = Field(
        default=False, description="it has left the fleet since, so only a reset or an operator restores it"
    )


class DrainNotes(OwnedMessage):
    """All devices that the scheduler drained; KV `scheduler`, key `drain_notes`."""

    DEFAULT_ACTOR: ClassVar[str] = "scheduler"

    notes: list[DrainNote] = Field(default=[], max_length=1_000_000)
