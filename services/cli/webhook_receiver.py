"""A small webhook receiver for the tour and the tests."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


@dataclass(frozen=True)
class Caught:
    """One received request."""

    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> dict[str, Any] | None:
        """Return the body when its signature is valid."""
        try:
            found = Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return None
        return found if isinstance(found, dict) else None


class WebhookCatcher:
    """Records what is posted to it; `answers` are the statuses to return, the last one repeats."""

    def __init__(self, answers: tuple[int, ...] = (204,)) -> None:
        self.caught: list[Caught] = []
        self._answers = list(answers)
        catcher = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                catcher.caught.append(Caught({k.lower(): v for k, v in self.headers.items()}, body))
                answers = catcher._answers
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def start(self) -> None:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
