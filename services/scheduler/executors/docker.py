"""Containers of one host: a pool's replicas are copies of its first container, found by a label."""

from __future__ import annotations

import asyncio
from typing import Any

import docker
from docker.errors import DockerException

from accelerator_autopilot.scheduler.executors.ports import ExecutorError

STOP_TIMEOUT_S = 60
COPY_LABEL = "autopilot.copy"


class DockerExecutor:
    """Starts and stops copies; the first container of a pool is the operator's and is never removed."""

    def __init__(self, engine: Any, label: str) -> None:
        self._engine, self._label = engine, label

    @classmethod
    async def connect(cls, label: str) -> DockerExecutor:
        """Connect through DOCKER_HOST or the default socket. Raises ExecutorError."""
        try:
            return cls(await asyncio.to_thread(docker.from_env), label)
        except DockerException as error:
            raise ExecutorError(f"docker: does not answer ({error}): mount its socket or set DOCKER_HOST") from error

    async def replicas(self, pool: str) -> int:
        """Return the number of running containers."""
        return len(await self._running(pool))

    async def scale(self, pool: str, replicas: int) -> int:
        """Start copies, or stop the youngest ones, which drain on SIGTERM."""
        running = await self._running(pool)
        if not running:
            raise ExecutorError(
                f"docker: no container with {self._label}={pool}: start one as the template for further ones"
            )
        try:
            for number in range(len(running), replicas):
                await asyncio.to_thread(self._copy, running[0], number)
            copies = [c for c in running if COPY_LABEL in c.labels]
            for container in copies[::-1][: max(0, len(running) - max(replicas, 1))]:
                await asyncio.to_thread(container.stop, timeout=STOP_TIMEOUT_S)
                await asyncio.to_thread(container.remove)
        except DockerException as error:
            raise ExecutorError(f"docker: pool {pool}: {error}") from error
        return len(await self._running(pool))

    async def close(self) -> None:
        """Close the connection."""
        await asyncio.to_thread(self._engine.close)

    async def _running(self, pool: str) -> list[Any]:
        wanted = {"label": f"{self._label}={pool}", "status": "running"}
        try:
            found = await asyncio.to_thread(self._engine.containers.list, filters=wanted)
        except DockerException as error:
            raise ExecutorError(f"docker: pool {pool}: {error}") from error
        return sorted(found, key=lambda c: (COPY_LABEL in c.labels, c.attrs["Created"]))

    def _copy(self, first: Any, number: int) -> None:
        made_of, host = first.attrs["Config"], first.attrs["HostConfig"]
        self._engine.containers.run(
            made_of["Image"],
            command=made_of.get("Cmd"),
            environment=made_of.get("Env"),
            labels={**first.labels, COPY_LABEL: str(number)},
            network=host.get("NetworkMode"),
            volumes=host.get("Binds"),
            device_requests=host.get("DeviceRequests"),
            mem_limit=host.get("Memory") or None,
            detach=True,
        )
