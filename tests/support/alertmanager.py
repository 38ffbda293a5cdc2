"""An Alertmanager for tests: the real one where it is installed, and a small one that does the same with alerts.

Of the real one (0.25, `types.Alert.Merge`, `api/v2`): labels are the identity; of two posts of the same labels the
later one's end counts, an end before the start is refused with 400 while the rest of the post is taken; what is past
its end is not active; nothing but silences and its notification log outlives a restart.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from accelerator_autopilot.transport.clock import utc_now
from tests.support.waiting import eventually

BINARY = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


class Alertmanager(Protocol):
    """One Alertmanager under test."""

    url: str

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def active(self) -> list[str]:
        """`kind severity` of each active alert, in order."""
        ...


class SmallAlertmanager:
    """Takes posts on the port that it began with, so that it can be started again."""

    def __init__(self) -> None:
        self._port, self.url = 0, ""
        self._server: asyncio.Server | None = None
        self._alerts: dict[str, dict[str, Any]] = {}

    async def start(self) -> None:
        self._alerts.clear()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api/v2/alerts"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def active(self) -> list[str]:
        now = utc_now()
        return sorted(_name(a["labels"]) for a in self._alerts.values() if datetime.fromisoformat(a["endsAt"]) > now)

    def _take(self, told: list[dict[str, Any]]) -> int:
        status = 200
        for alert in told:
            if datetime.fromisoformat(alert["endsAt"]) < datetime.fromisoformat(alert["startsAt"]):
                status = 400
                continue
            self._alerts[json.dumps(alert["labels"], sort_keys=True)] = alert
        return status

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self._server is not None and self._server.is_serving():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                length = next(int(line.split(":")[1]) for line in head if line.startswith("content-length"))
                status = self._take(json.loads(await reader.readexactly(length)))
                writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class RealAlertmanager:
    """The binary with a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._base = f"http://127.0.0.1:{self._port}"
        self.url = f"{self._base}/api/v2/alerts"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        config = self._folder / "alertmanager.yml"
        config.write_text("global: {resolve_timeout: 1s}\nroute: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        assert BINARY is not None
        self._process = await asyncio.create_subprocess_exec(
            BINARY,
            f"--config.file={config}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--cluster.listen-address=",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "GOMAXPROCS": "1"},
        )

        async def ready() -> bool:
            try:
                async with httpx.AsyncClient() as http:
                    return (await http.get(f"{self._base}/-/ready")).status_code == 200
            except httpx.HTTPError:
                return False

        await eventually(ready, 20)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def active(self) -> list[str]:
        async with httpx.AsyncClient() as http:
            told = (await http.get(self.url, params={"silenced": "false"})).json()
        return sorted(_name(alert["labels"]) for alert in told)

    async def silence(self, **labels: str) -> None:
        """A silence of its own for an hour."""
        now = utc_now().timestamp()
        matchers = [{"name": k, "value": v, "isRegex": False, "isEqual": True} for k, v in labels.items()]
        times = {
            "startsAt": datetime.fromtimestamp(now).astimezone().isoformat(),
            "endsAt": datetime.fromtimestamp(now + 3600).astimezone().isoformat(),
        }
        async with httpx.AsyncClient() as http:
            body = {"matchers": matchers, "createdBy": "test", "comment": "test", **times}
            (await http.post(f"{self._base}/api/v2/silences", json=body)).raise_for_status()

    async def silenced(self) -> list[str]:
        """What is open and silenced there."""
        async with httpx.AsyncClient() as http:
            told = (await http.get(self.url, params={"active": "false", "silenced": "true"})).json()
        return sorted(_name(alert["labels"]) for alert in told)


def _name(labels: dict[str, str]) -> str:
    return f"{labels['alertname']} {labels['severity']}"
