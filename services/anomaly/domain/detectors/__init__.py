"""Every detector; adding one is adding a file with a `make(settings)`."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from importlib import import_module

from services.anomaly.domain.finding import Detector


@dataclass(frozen=True)
class Tuning:
    """What operators can tune."""

    xid_hold_s: float = 600.0
    silent_after_s: float = 10.0
    robust_threshold: float = 8.0


def all_detectors(tuning: Tuning) -> list[Detector]:
    """One of each."""
    modules = [import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return [module.make(tuning) for module in modules]
