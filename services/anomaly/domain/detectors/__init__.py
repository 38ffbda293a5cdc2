"""Event detectors; to add one, add a file with a `make(xid_hold_s, fleet)`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from accelerator_autopilot.anomaly.domain.findings import EventDetector
from accelerator_autopilot.anomaly.domain.source_topology import SourceTopology


def all_detectors(xid_hold_s: float = 600.0, fleet: SourceTopology | None = None) -> list[EventDetector]:
    """Create one of each."""
    modules = [import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    known = fleet or SourceTopology()
    return [module.make(xid_hold_s, known) for module in modules if hasattr(module, "make")]
