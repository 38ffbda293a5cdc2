"""Identifiers: random ones, and those derived from content."""

from __future__ import annotations

import hashlib
import uuid


def new_id() -> str:
    """Return a random id of 32 hexadecimal digits."""
    return uuid.uuid4().hex


def derived_id(*parts: str) -> str:
    """Return the same 32 hexadecimal digits for the same parts."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
