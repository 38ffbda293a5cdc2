"""Select the active policy: the winner on the fleet's own replay, until live results contradict it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles

BLOCK_S = 900.0  # blocks of time, compared in pairs
IN_TIME_GOAL = 0.99
MIN_BLOCKS = 8  # blocks of replay below which nothing is promoted
RESAMPLES = 2000
BLOCKS_TO_FALL_BACK = 6  # consecutive live blocks outside the band
BAND_SLACK = 0.02


@dataclass(frozen=True)
class Replayed:
    """A policy's results on the fleet's own days: [B] blocks of time, the same for every policy."""

    joules: Doubles
    jobs: Doubles
    late: Doubles

    @property
    def in_time(self) -> float:
        """The share of all jobs that were in time."""
        return 1.0 - float(self.late.sum()) / max(1.0, float(self.jobs.sum()))

    @property
    def band(self) -> ExpectedRange:
        """The band that should contain nine out of ten blocks of a live run."""
        busy = self.jobs > 0
        in_time = 1.0 - self.late[busy] / self.jobs[busy]
        joules = self.joules[busy] / self.jobs[busy]
        return ExpectedRange(
            in_time_low=float(np.quantile(in_time, 0.05)) - BAND_SLACK,
            joules_high=float(np.quantile(joules, 0.95)) * (1 + BAND_SLACK),
        )


@dataclass(frozen=True)
class ExpectedRange:
    """The predicted range of a policy's results."""

    in_time_low: float
    joules_high: float  # per job


@dataclass(frozen=True)
class Choice:
    """The selected policy, why, and how certain that is."""

    champion: str
    why: str
    saving: float = 0.0  # energy saved against the previous champion, as a share
    saving_low: float = 0.0  # lower end of its 95 % interval


def choose(champion: str, replays: Mapping[str, Replayed], seed: int = 0) -> Choice:
    """Promote the challenger that is in time and reliably saves energy; else keep the champion.

    Reliably: the lower end of the 95 % interval of the saving, by paired bootstrap over the blocks, is above zero.
    A champion that is not in time is replaced by any challenger that is in time more often.
    """
    ours = replays.get(champion)
    if ours is None or len(ours.joules) < MIN_BLOCKS:
        blocks = 0 if ours is None else len(ours.joules)
        return Choice(champion, f"{blocks} blocks of history, {MIN_BLOCKS} are needed to compare")
    in_time = {n: r for n, r in replays.items() if n != champion and r.in_time >= IN_TIME_GOAL}
    if ours.in_time < IN_TIME_GOAL:
        better = {n: r for n, r in replays.items() if r.in_time > ours.in_time}
        if not better:
            return Choice(champion, "not in time, but no policy is in time more often")
        name = min(in_time or better, key=lambda n: float(replays[n].joules.sum()) if in_time else -replays[n].in_time)
        return Choice(name, f"{champion} is in time with {ours.in_time:.2%}, {name} with {replays[name].in_time:.2%}")
    best = Choice(champion, "no challenger reliably saves energy")
    for name, replay in in_time.items():
        saving, low = _saving(ours, replay, seed)
        if low > 0 and saving > best.saving:
            best = Choice(name, f"{name} saves {saving:.1%} of the energy, at least {low:.1%}", saving, low)
    return best


def _saving(ours: Replayed, theirs: Replayed, seed: int) -> tuple[float, float]:
    picks = np.random.default_rng(seed).integers(len(ours.joules), size=(RESAMPLES, len(ours.joules)))
    savings = 1.0 - theirs.joules[picks].sum(axis=1) / np.maximum(ours.joules[picks].sum(axis=1), 1e-9)
    return float(1.0 - theirs.joules.sum() / max(float(ours.joules.sum()), 1e-9)), float(np.quantile(savings, 0.025))


@dataclass
class ChampionChallenger:
    """The champion and its fall-back in live operation."""

    champion: str
    fallback: str
    band: ExpectedRange | None = None
    fallen: str | None = field(default=None)  # why the fall-back is active
    _outside: int = 0

    @property
    def deciding(self) -> str:
        """The policy that decides now."""
        return self.fallback if self.fallen else self.champion

    def select(self, choice: Choice, band: ExpectedRange | None) -> None:
        """Process a new evaluation; it ends a fall-back."""
        self.champion, self.band, self.fallen, self._outside = choice.champion, band, None, 0

    def live(self, jobs: int, late: int, joules: float) -> str | None:
        """Process a block of live operation; returns the reason when the champion was just demoted."""
        if self.band is None or self.fallen or not jobs:
            return None
        in_time, each_j = 1.0 - late / jobs, joules / jobs
        bad = in_time < self.band.in_time_low or each_j > self.band.joules_high
        self._outside = self._outside + 1 if bad else 0
        if self._outside < BLOCKS_TO_FALL_BACK:
            return None
        self.fallen = (
            f"{self.champion}: {in_time:.1%} in time and {each_j:.0f} J a job, predicted at least "
            f"{self.band.in_time_low:.1%} and at most {self.band.joules_high:.0f} J"
        )
        return self.fallen
