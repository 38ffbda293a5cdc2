"""API keys: how they are generated and stored."""

from __future__ import annotations

import hashlib
import secrets


def new_key() -> str:
    """Generate an unguessable key."""
    return f"ap_{secrets.token_urlsafe(24)}"


def digest(key: str) -> str:
    """Return what is stored of a key: its SHA-256, which is sufficient for random keys."""
    return hashlib.sha256(key.encode()).hexdigest()
