"""What a process that must stay small leaves out."""

from __future__ import annotations

import sys
from typing import Any, cast


def leave_out_websockets(nats_url: str) -> None:
    """Keep nats-py from loading aiohttp where it is installed: 11 MB that only a websocket URL needs."""
    if not nats_url.startswith("ws"):
        cast("dict[str, Any]", sys.modules).setdefault("aiohttp", None)
