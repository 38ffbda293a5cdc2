"""Every job kind that workers run: built-in kinds, and plug-ins of installed distributions.

A distribution adds a kind by an entry point in the group `accelerator_autopilot.kinds`; its name is the kind's name and
its value refers to the kind object (docs/how-to/write-a-job-kind.md).
"""

from __future__ import annotations

import logging
import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from accelerator_autopilot.contracts.errors import SettingsError
from accelerator_autopilot.inference.kinds.base import ContinuousKind, Kind

GROUP = "accelerator_autopilot.kinds"
log = logging.getLogger(__name__)


def registry() -> dict[str, Kind | ContinuousKind]:
    """Return all kinds by name."""
    return _load()[0]


def find(name: str) -> Kind | ContinuousKind:
    """Return the kind of this name.

    Raises SettingsError, which lists the available kinds or says why a plug-in was not loaded.
    """
    kinds, failures = _load()
    if name in kinds:
        return kinds[name]
    if name in failures:
        raise SettingsError(f"AUTOPILOT_POOL_KINDS names {name!r}, whose plug-in was not loaded: {failures[name]}")
    raise SettingsError(f"AUTOPILOT_POOL_KINDS: unknown kind {name!r}; available: {', '.join(sorted(kinds))}")


@cache
def _load() -> tuple[dict[str, Kind | ContinuousKind], dict[str, str]]:
    """Return kinds by name, and why others failed to load: one broken plug-in must not stop the other kinds."""
    kinds: dict[str, Kind | ContinuousKind] = {}
    for module in pkgutil.iter_modules(__path__):
        kind = getattr(import_module(f"{__name__}.{module.name}"), "KIND", None)
        if kind is not None:
            kinds[kind.name] = kind
    failures: dict[str, str] = {}
    for entry in entry_points(group=GROUP):
        taken = f"{entry.value} has the name of another kind" if entry.name in kinds else ""
        why = taken or _load_plugin(entry, kinds)
        if why:
            failures[entry.name] = why
            log.warning("job kind not loaded", extra={"kind": entry.name, "plugin": entry.value})
    return kinds, failures


def _load_plugin(entry: EntryPoint, kinds: dict[str, Kind | ContinuousKind]) -> str:
    """Load one plug-in; returns why it cannot be used, or an empty string."""
    try:
        kind = entry.load()
    except Exception as error:  # noqa: BLE001  whatever a plug-in's import raises is its own
        return f"importing {entry.value} raised {type(error).__name__}: {error}"
    if getattr(kind, "name", None) != entry.name:
        return f"{entry.value} is named {getattr(kind, 'name', None)!r}, its entry point {entry.name!r}"
    if not isinstance(kind, Kind) and not hasattr(kind, "start"):
        return f"{entry.value} has neither `run` nor `start`"
    kinds[entry.name] = kind
    return ""
