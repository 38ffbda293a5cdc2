"""Every rule; to add one, add it to a module's `make`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from accelerator_autopilot.anomaly.domain.rules.base import Rule


def all_rules() -> list[Rule]:
    """Create one of each."""
    modules = [import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__) if m.name != "base"]
    return [rule for module in modules for rule in module.make()]
