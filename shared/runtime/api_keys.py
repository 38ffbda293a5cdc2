"""API keys: how they are made, and how they are kept."""

from __future__ import annotations

import hashlib
import secrets

# No person's key may write the audit, or command, in the name of a service.
SERVICE_NAMES = frozenset(
    {"agent", "analyse", "anomaly", "gateway", "notifier", "pool", "recorder", "scheduler", "telemetry", "worker"}
)


def new_key() -> str:
    """A key that nobody guesses."""
    return f"ap_{secrets.token_urlsafe(24)}"


def digest(key: str) -> str:
    """What is kept of a key: its SHA-256, which is enough for random ones."""
    return hashlib.sha256(key.encode()).hexdigest()
