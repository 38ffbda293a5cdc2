"""analyze-logs: templates, bursts, new and vanished lines, the first error and its likely root cause."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples
from accelerator_autopilot.contracts.kinds.files import File


class Template(BaseModel):
    """A pattern that many log lines share."""

    id: int
    template: str
    count: int
    first_line: int
    last_line: int
    example: str
    severity: int


class LogLine(BaseModel):
    """A relevant line."""

    source: str
    line: int
    text: str
    at: datetime | None = None
    meaning: str = ""


class Burst(BaseModel):
    """A template whose lines were suddenly frequent."""

    template: str
    first_line: int
    last_line: int
    count: int
    usual: float


class RootCause(BaseModel):
    """The most likely root cause, and the lines that followed from it, in order."""

    line: LogLine
    reason: str
    confidence: float
    evidence: list[LogLine]


class AnalyzeLogsResult(Result, Tabular):
    """The analysis of a log."""

    lines: int
    errors: int
    warnings: int
    templates: list[Template]
    bursts: list[Burst]
    new_templates: list[str]
    vanished_templates: list[str]
    first_error: LogLine | None
    root_cause: RootCause | None
    gpu: dict[str, list[LogLine]]

    def rows(self) -> list[dict[str, Any]]:
        """One row per template."""
        return [t.model_dump() for t in self.templates]


class AnalyzeLogs(Payload[AnalyzeLogsResult]):
    """A log as text, files or an archive in base64, and optionally an earlier log to compare with."""

    kind_name = "analyze-logs"
    result_model = AnalyzeLogsResult
    model_config = examples({"text": "INFO step 1 done\nINFO step 2 done\nERROR CUDA out of memory\n"})

    text: str | None = Field(default=None, max_length=64 * 2**20)
    files: list[File] = Field(default=[], max_length=5000)
    archive: str | None = None
    baseline: str | None = Field(default=None, max_length=64 * 2**20, description="a log from normal operation")
