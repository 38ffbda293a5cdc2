"""Tries the gateway's doors all the time, with keys of every role, an unknown one and none."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from accelerator_autopilot.runtime.api_keys import digest, new_key

ROLES = ("viewer", "operator", "admin")
READ_BY_ALL = ("/v1/alerts", "/v1/pools", "/v1/policy", "/v1/subscriptions")
PAUSE_S = 0.15
UNAVAILABLE = {429, 503}


@dataclass
class Doors:
    """What each key may open; requests carry no body, so an open door changes nothing."""

    url: str
    dice: random.Random
    keys: dict[str, str]
    tried: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Try until cancelled."""
        async with httpx.AsyncClient(base_url=self.url, timeout=5.0, trust_env=False) as http:
            operations: list[tuple[str, str]] = []
            while True:
                try:
                    operations = operations or await self._read_operations(http)
                    await self._try(http, operations)
                except (httpx.HTTPError, ValueError):
                    self.tried["no answer"] += 1
                await asyncio.sleep(PAUSE_S)

    async def _read_operations(self, http: httpx.AsyncClient) -> list[tuple[str, str]]:
        """Methods and paths of the gateway's own document."""
        answer = await http.get("/openapi.json", headers={"X-API-Key": self.keys["admin"]})
        return [
            (method.upper(), re.sub(r"\{[^}]*\}", "soak-none", path))
            for path, methods in answer.raise_for_status().json()["paths"].items()
            for method in methods
            if path.startswith("/v1")
        ]

    async def _try(self, http: httpx.AsyncClient, operations: list[tuple[str, str]]) -> None:
        who = self.dice.choice(["nobody", "unknown", *ROLES])
        method, path = self.dice.choice(operations)
        if who in ROLES and _may(who, method):
            # What a key may do is tried on a few that only read: its right to them must not get lost.
            method, path = "GET", self.dice.choice(READ_BY_ALL)
        key = {"unknown": "ap_" + "x" * 32, "nobody": ""}.get(who) or self.keys.get(who, "")
        # A stream that should have been refused would never end: only its head is read.
        async with http.stream(method, path, headers={"X-API-Key": key} if key else {}) as answer:
            status = answer.status_code
        self.tried[f"{who} {status}"] += 1
        if status in UNAVAILABLE or (status >= 500 and who in ROLES and _may(who, method)):
            return
        allowed = who in ROLES and _may(who, method)
        refused = {401, 403} if who in ROLES else {401}
        if (status in {401, 403}) if allowed else (status not in refused):
            self.violations.append(f"{who}'s key got {status} for {method} {path}")


def _may(role: str, method: str) -> bool:
    least = {"GET": "viewer", "PUT": "admin"}.get(method, "operator")
    return ROLES.index(role) >= ROLES.index(least)


def make_keys(folder: Path) -> dict[str, str]:
    """A key of each role, known to the gateway that will start on this folder."""
    keys = {role: new_key() for role in ROLES}
    path = folder / "api_keys.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps({digest(key): role for role, key in keys.items()}))
    return keys
