"""Log lines tell failures by type and place: an exception's text may quote a job."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from accelerator_autopilot.runtime.failure_description import outline
from accelerator_autopilot.runtime.json_logs import OutlineFormatter

SECRET = "hush-7d1f"


def fail() -> None:
    try:
        int(SECRET)
    except ValueError as error:
        raise ExceptionGroup(SECRET, [RuntimeError(SECRET)]) from error


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, str]] = []
        self.setFormatter(OutlineFormatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def lines() -> Iterator[list[dict[str, str]]]:
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)


def test_an_outline_tells_the_error_its_parts_and_its_cause() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        fail()
    told = outline(raised.value)
    assert told.startswith("ExceptionGroup at test_logs.py:")
    assert "fail < " in told
    assert "in it RuntimeError at no place; after ValueError at" in told
    assert SECRET not in told


def test_a_logged_exception_is_outlined(lines: list[dict[str, str]]) -> None:
    try:
        fail()
    except ExceptionGroup:
        logging.getLogger("library").exception("went wrong")
    assert lines[-1]["message"] == "went wrong"
    assert "ExceptionGroup at" in lines[-1]["exc_info"]
    assert SECRET not in json.dumps(lines)


async def test_a_task_that_nobody_waited_for_is_told_without_its_text(lines: list[dict[str, str]]) -> None:
    async def work() -> None:
        raise ValueError(SECRET)

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    del task
    assert lines[-1]["message"] == "Task exception was never retrieved"
    assert "ValueError at test_logs.py" in lines[-1]["exc_info"]
    assert SECRET not in json.dumps(lines)


@pytest.mark.parametrize("where", ["main", "thread"])
def test_what_ends_a_process_or_a_thread_is_told_without_its_text(where: str) -> None:
    code = f"""
import threading
from accelerator_autopilot.runtime.json_logs import setup_logging

setup_logging("s", "INFO")
def work():
    int({SECRET!r})
if {where!r} == "main":
    work()
threading.Thread(target=work).start()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == (1 if where == "main" else 0)
    assert json.loads(ended.stderr)["error"] == "ValueError"
    assert SECRET not in ended.stderr
