"""Liveness, readiness and metrics, served from a thread so that a blocked event loop is still reported."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from accelerator_autopilot.runtime.shutdown import end_stuck

LOOP_STALL_S = 5.0
# An event loop that was blocked for this long does not recover by itself.
LOOP_DEAD_S = 60.0
CHECK_INTERVAL_S = 1.0
TICK_S = 1.0
# Only shutdown waits for this long: a request is answered as soon as it arrives.
POLL_S = 1.0


@dataclass
class Condition:
    """Something that must hold for the service to be ready."""

    ok: bool
    reason: str
    at: float
    max_age_s: float | None = None


class HealthState:
    """The health of the service; written by the event loop, read by the server's thread."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._conditions: dict[str, Condition] = {"started": Condition(ok=False, reason="starting", at=0.0)}
        self._tick = time.monotonic()

    def tick(self) -> None:
        """Record that the event loop runs."""
        self._tick = time.monotonic()

    def report(self, name: str, *, ok: bool, reason: str = "", max_age_s: float | None = None) -> None:
        """Set a condition; with `max_age_s` it must be renewed within that time."""
        with self._lock:
            self._conditions[name] = Condition(ok, reason, time.monotonic(), max_age_s)

    def forget(self, name: str) -> None:
        """Drop a condition that no longer applies."""
        with self._lock:
            self._conditions.pop(name, None)

    @property
    def last_tick(self) -> float:
        """When the event loop last ran, in seconds of the monotonic clock."""
        return self._tick

    def live(self) -> tuple[bool, str]:
        """Return whether the event loop ran recently."""
        stalled = time.monotonic() - self._tick
        return stalled < LOOP_STALL_S, f"event loop last turned {stalled:.1f} s ago"

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Return whether every condition holds and is fresh, with the reasons of those that do not."""
        now = time.monotonic()
        with self._lock:
            conditions = dict(self._conditions)
        problems = {}
        for name, c in conditions.items():
            if not c.ok:
                problems[name] = c.reason
            elif c.max_age_s is not None and now - c.at > c.max_age_s:
                problems[name] = f"not confirmed for {now - c.at:.0f} s"
        alive, reason = self.live()
        if not alive:
            problems["event_loop"] = reason
        return not problems, problems

    async def keep_ticking(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)


class HealthServer:
    """HTTP server of /livez, /readyz and /metrics in a daemon thread.

    A second thread terminates the process when its event loop has been blocked for LOOP_DEAD_S, so that its
    supervisor restarts it.
    """

    def __init__(self, state: HealthState, registry: CollectorRegistry, host: str, port: int) -> None:
        handler = _handler(state, registry)
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True)
        self._state, self._stopped = state, threading.Event()
        self._watch = threading.Thread(target=self._watch_loop, daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._thread.start()
        self._watch.start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._stopped.set()
        threading.Thread(target=self._server.shutdown, daemon=True).start()
        # A connection wakes it up.
        with (
            suppress(OSError),
            socket.create_connection((str(self._server.server_address[0]), self.port), timeout=POLL_S),
        ):
            self._thread.join(timeout=2 * POLL_S)
        self._server.server_close()

    def _watch_loop(self) -> None:
        # Iterations are counted, not time: when the whole process was suspended, its event loop is not at
        # fault.
        seen, still = self._state.last_tick, 0
        while not self._stopped.wait(CHECK_INTERVAL_S):
            tick = self._state.last_tick
            seen, still = tick, still + 1 if tick == seen else 0
            if still * CHECK_INTERVAL_S >= LOOP_DEAD_S:
                end_stuck(f"the event loop of {self._state.service} has not turned for {LOOP_DEAD_S:.0f} s")


def _handler(state: HealthState, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/livez":
                ok, reason = state.live()
                self._reply(200 if ok else 503, {"live": ok, "reason": reason})
            elif self.path == "/readyz":
                ok, problems = state.ready()
                self._reply(200 if ok else 503, {"ready": ok, "service": state.service, "problems": problems})
            elif self.path == "/metrics":
                self._send(200, "text/plain; version=0.0.4", generate_latest(registry))
            else:
                self._reply(404, {"error": "use /livez, /readyz or /metrics"})

        def _reply(self, status: int, body: dict[str, object]) -> None:
            self._send(status, "application/json", json.dumps(body).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: probes arrive every second."""

    return Handler
