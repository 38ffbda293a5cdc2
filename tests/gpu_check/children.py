"""Child processes of the check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def load(kind: str, device: str) -> Iterator[subprocess.Popen[str]]:
    """A process of `tests.gpu_check.load`, ready, until the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu_check.load", kind, device],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the load {kind} did not start on {device}")
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
