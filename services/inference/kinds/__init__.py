"""Every job kind this product runs; adding one is adding a file with a `KIND`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from services.inference.kinds.base import Kind


def registry() -> dict[str, Kind]:
    """All kinds by name."""
    kinds: dict[str, Kind] = {}
    for module in pkgutil.iter_modules(__path__):
        kind = getattr(import_module(f"{__name__}.{module.name}"), "KIND", None)
        if kind is not None:
            kinds[kind.name] = kind
    return kinds
