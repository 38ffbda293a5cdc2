"""Skip imports in processes that must stay small."""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast


def leave_out_websockets(nats_url: str) -> None:
    """Let nats-py load without aiohttp: 10 MB that only a websocket URL needs.

    Call it before anything imports nats; whoever needs aiohttp itself imports it afterwards as usual.
    """
    if "ws://" not in nats_url and "wss://" not in nats_url:
        _load_without("aiohttp", "nats.aio.transport")


def leave_out_http_server() -> None:
    """Let FastStream load without uvicorn, 3 MB that only its own HTTP server needs; see above."""
    _load_without("uvicorn", "faststream._internal._compat")


def _load_without(left_out: str, module: str) -> None:
    if left_out in sys.modules or module in sys.modules:
        return
    modules = cast("dict[str, Any]", sys.modules)
    modules[left_out] = None
    try:
        importlib.import_module(module)
    finally:
        del modules[left_out]
