"""Devices that were capped or locked, kept on disk so that a crash cannot leave a cap behind."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from accelerator_autopilot.telemetry.agent.domain.power_lease import ANY, CappedDevices

log = logging.getLogger(__name__)


class PowerCapFile:
    """A JSON list of devices, replaced atomically. An unreadable file is moved aside and stands for all devices."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> CappedDevices:
        """Return what was capped when the last process ended."""
        try:
            return _parse(json.loads(self._path.read_text()))
        except FileNotFoundError:
            return CappedDevices()
        except (OSError, ValueError, ArithmeticError, KeyError, TypeError, RecursionError) as error:
            aside = self._path.with_suffix(".unreadable")
            details = {"kept_as": str(aside), "error": str(error)}
            log.critical("cap file unreadable; restoring the default cap of every capped device", extra=details)
            self._set_aside(aside)
            return CappedDevices({ANY})

    def _set_aside(self, aside: Path) -> None:
        try:
            self._path.replace(aside)
        except OSError as error:
            log.warning("cap file not moved aside", extra={"error": str(error)})

    def save(
        self,
        devices: Collection[str],
        clocks: Collection[str] = (),
        defaults_w: Mapping[str, float] | None = None,
    ) -> None:
        """Replace the file atomically and synced, so that it is never half written. Raises OSError."""
        entries: list[dict[str, Any]] = [
            {"device": device, "clock": device in clocks, "default_w": (defaults_w or {}).get(device)}
            for device in sorted(devices)
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        with draft.open("w") as file:
            json.dump(entries, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        _sync_folder(self._path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(entries: Any) -> CappedDevices:
    """Raise ValueError, KeyError or TypeError for anything but a list of devices."""
    if not isinstance(entries, list):
        raise TypeError(f"must be a list, is {type(entries).__name__}")
    kept = CappedDevices()
    for entry in entries:
        # Files of older agents contain names only, and those agents locked clocks without recording it here.
        known: dict[str, Any] = {"device": entry} if isinstance(entry, str) else entry
        device = str(known["device"])
        kept.devices.add(device)
        if known.get("clock", True):
            kept.clocks.add(device)
        if known.get("default_w") is not None:
            default_w = float(known["default_w"])
            if not 0 < default_w < math.inf:
                raise ValueError(f"default_w={default_w!r} of {device!r} is not a power in W")
            kept.defaults_w[device] = default_w
    return kept
