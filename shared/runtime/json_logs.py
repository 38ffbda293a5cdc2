"""Logs as JSON lines."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

from pythonjsonlogger.json import JsonFormatter

from accelerator_autopilot.runtime.failure_description import failure_fields, outline

log = logging.getLogger(__name__)

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OutlineFormatter(JsonFormatter):
    """Formats exceptions by type and location: their messages may quote data, also in a library's log."""

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802  logging calls it so
        """Format type and location of an exception and its causes."""
        return outline(ei[1]) if ei[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line."""
        if record.name == "asyncio" and record.exc_info:
            # What follows is the task or future, which includes the exception's message.
            record.msg, record.args = record.getMessage().partition("\n")[0], ()
        return super().format(record)


def setup_logging(service: str, level: str) -> None:
    """Log JSON objects, one per line, to stderr, with time, level, service, event and the given fields.

    Uncaught exceptions of the process and its threads are logged in the same way.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        OutlineFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "at", "levelname": "level", "message": "event"},
            static_fields={"service": service},
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "nats", "faststream", "uvicorn.access", "alembic"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    sys.excepthook = _ended_by
    threading.excepthook = _thread_ended_by


def _ended_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("ended by an error", extra=failure_fields(error))


def _thread_ended_by(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else ""
        log.critical("thread ended by an error", extra={"of": name} | failure_fields(args.exc_value))
