"""What tests of the client share."""

from __future__ import annotations

from typing import Any

from accelerator_autopilot.contracts.messages.jobs import JobResult
from tests.support.builders import T0


def result(status: Any = "succeeded", **more: Any) -> JobResult:
    fields = {"output": {"text": "x"}} if status == "succeeded" else {}
    return JobResult(
        job_id="j", kind="echo", status=status, submitted_at=T0, finished_at=T0, **(fields | more)
    )  # fmt: skip
