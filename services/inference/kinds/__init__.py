"""Every job kind this product runs; adding one is adding a file with a `KIND`."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from accelerator_autopilot.inference.kinds.base import ContinuousKind, Kind


@cache
def registry() -> dict[str, Kind | ContinuousKind]:
    """All kinds by name."""
    kinds: dict[str, Kind | ContinuousKind] = {}
    for module in pkgutil.iter_modules(__path__):
        kind = getattr(import_module(f"{__name__}.{module.name}"), "KIND", None)
        if kind is not None:
            kinds[kind.name] = kind
    return kinds
