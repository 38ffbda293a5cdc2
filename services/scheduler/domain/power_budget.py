"""Share out power: caps as wanted, as far as every budget allows. Pure, over all devices at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelerator_autopilot.scheduler.domain.pool_arrays import Doubles


@dataclass(frozen=True)
class Limit:
    """The most watts that some devices may have together."""

    watts: float
    members: NDArray[np.intp]  # the rows of the devices


@dataclass(frozen=True)
class Shared:
    """[D] caps, whether a budget lowered them, and whether one is exceeded even with every cap at its minimum."""

    cap_w: Doubles
    narrowed: NDArray[np.bool_]
    below_minimum: NDArray[np.bool_]


def allocate_power(wanted_w: Doubles, lowest_w: Doubles, limits: Sequence[Limit]) -> Shared:
    """Reduce caps to fit each limit, in proportion to what each device has above its lowest cap.

    Narrower limits go first, so that a wide one does not take from devices that a narrow one takes from anyway.
    Caps only ever fall, so a limit that was met stays met.
    """
    cap_w = np.maximum(wanted_w, lowest_w)
    narrowed = np.zeros(len(cap_w), bool)
    below = np.zeros(len(cap_w), bool)
    for limit in sorted(limits, key=lambda each: len(each.members)):
        its = limit.members
        over = float(cap_w[its].sum()) - limit.watts
        if over <= 0:
            continue
        room = cap_w[its] - lowest_w[its]
        share = min(1.0, over / max(float(room.sum()), 1e-9))
        cap_w[its] -= share * room
        narrowed[its] = True
        if over > room.sum() + 1e-6:
            below[its] = True
    return Shared(cap_w, narrowed, below)
