"""detect-anomalies: find the outliers of a table, with reasons and a report."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples
from accelerator_autopilot.contracts.kinds.files import File

MAX_LISTED = 1000


class Reason(BaseModel):
    """Why a row is an outlier in one column."""

    column: str
    value: Any
    expected: str


class Anomaly(BaseModel):
    """An outlier; rows count from 0."""

    row: int
    score: float
    reasons: list[Reason]


class ComplianceReport(BaseModel):
    """What was checked and found, as data and in Markdown."""

    made_at: datetime
    rows: int
    columns_checked: list[str]
    columns_skipped: list[str]
    missing_values: dict[str, int]
    duplicate_rows: int
    anomalous_rows: int
    by_column: dict[str, int]
    method: str
    markdown: str = ""


class DetectAnomaliesResult(Result, Tabular):
    """Outliers, worst first, and the report."""

    anomalies: list[Anomaly]
    report: ComplianceReport

    def rows(self) -> list[dict[str, Any]]:
        """One row per outlier: its row number, its score and the columns concerned."""
        return [{"row": a.row, "score": a.score, "columns": [r.column for r in a.reasons]} for a in self.anomalies]


class DetectAnomalies(Payload[DetectAnomaliesResult]):
    """A CSV or Parquet file, or rows as JSON objects."""

    kind_name = "detect-anomalies"
    result_model = DetectAnomaliesResult
    model_config = examples({"rows": [{"amount": 10.0 + i % 3} for i in range(20)] + [{"amount": 900.0}]})

    file: File | None = None
    rows: list[dict[str, Any]] | None = Field(default=None, max_length=1_000_000)
    ignore: list[str] = Field(default=[], description="columns to ignore, such as identifiers")
    most: int = Field(default=100, ge=1, le=MAX_LISTED, description="most rows to report")
