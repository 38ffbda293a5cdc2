"""Ports of the anomaly detector."""

from __future__ import annotations

from collections.abc import Callable

from accelerator_autopilot.anomaly.domain.learned.snapshot import Snapshot

SaveSnapshot = Callable[[Snapshot], None]
"""Stores a snapshot atomically. Raises OSError or RuntimeError where nothing can be written."""
