"""detect-anomalies: find outliers in tables of transactions or metrics, with reasons and report files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.detect_anomalies import (
    Anomaly,
    ComplianceReport,
    DetectAnomalies,
    DetectAnomaliesResult,
    Reason,
)
from accelerator_autopilot.inference.domain.table_outliers import Column, categorical, numeric
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.kinds.files import data_of
from accelerator_autopilot.transport.clock import utc_now

MAX_CELLS = 50_000_000
REASONS = 5


class DetectAnomaliesKind:
    """One table a job."""

    name = "detect-anomalies"
    input = DetectAnomalies
    output = DetectAnomaliesResult
    max_batch = 1

    def run(self, inputs: Sequence[DetectAnomalies], context: RunContext) -> list[BaseModel | BaseException]:  # noqa: ARG002  every kind is called so
        """Check each table."""
        return each(lambda item, _: self._one(item), inputs)

    def _one(self, item: DetectAnomalies) -> DetectAnomaliesResult:
        table = _read(item)
        if table.height < 3:
            raise InvalidInputError("rows", table.height, "must have at least three rows")
        if table.height * table.width > MAX_CELLS:
            raise InvalidInputError("rows", table.height * table.width, f"may have at most {MAX_CELLS} cells")
        unknown = sorted(set(item.ignore) - set(table.columns))
        if unknown:
            raise InvalidInputError("ignore", unknown[0], f"is not a column; available: {', '.join(table.columns)}")
        columns = [c for name in table.columns if name not in item.ignore and (c := _column(table, name))]
        total = sum((c.score for c in columns), np.zeros(table.height))
        flagged = np.flatnonzero(np.any([c.outliers for c in columns], axis=0)) if columns else np.array([], dtype=int)
        worst = flagged[np.argsort(-total[flagged], kind="stable")]
        anomalies = [_anomaly(table, columns, int(row), float(total[row])) for row in worst[: item.most]]
        return DetectAnomaliesResult(anomalies=anomalies, report=_report(table, columns, len(flagged), anomalies))


def _read(item: DetectAnomalies) -> Any:
    import polars as pl  # noqa: PLC0415  a worker starts faster without

    if (item.file is None) == (item.rows is None):
        raise InvalidInputError("file", None, "give either file or rows")
    try:
        if item.rows is not None:
            return pl.DataFrame(item.rows, infer_schema_length=None, strict=False)
        assert item.file is not None  # noqa: S101  checked above
        data = data_of(item.file)
        if data[:4] == b"PAR1":
            return pl.read_parquet(io.BytesIO(data))
        return pl.read_csv(io.BytesIO(data), infer_schema_length=10_000, try_parse_dates=True)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError) as error:
        field = "rows" if item.rows is not None else "file"
        raise InvalidInputError(
            field, type(error).__name__, "is not a readable CSV file, Parquet file or list of rows"
        ) from error


def _column(table: Any, name: str) -> Column | None:
    values = table[name]
    if values.dtype.is_numeric():
        return numeric(name, values.cast(float, strict=False).fill_null(float("nan")).to_numpy())
    if values.dtype.is_temporal() or values.dtype.is_nested():
        return None
    return categorical(name, [None if v is None else str(v) for v in values.to_list()])


def _anomaly(table: Any, columns: list[Column], row: int, score: float) -> Anomaly:
    outliers = sorted((c for c in columns if c.outliers[row]), key=lambda c: -c.score[row])
    return Anomaly(
        row=row,
        score=round(score, 4),
        reasons=[Reason(column=c.name, value=table[c.name][row], expected=c.expected) for c in outliers[:REASONS]],
    )


def _report(table: Any, columns: list[Column], flagged: int, anomalies: list[Anomaly]) -> ComplianceReport:
    checked = [c.name for c in columns]
    report = ComplianceReport(
        made_at=utc_now(),
        rows=table.height,
        columns_checked=checked,
        columns_skipped=[name for name in table.columns if name not in checked],
        missing_values={name: n for name in table.columns if (n := table[name].null_count())},
        duplicate_rows=table.height - table.n_unique(),
        anomalous_rows=flagged,
        by_column={c.name: int(c.outliers.sum()) for c in columns if c.outliers.any()},
        method="robust z over 3.5, empirical tails (ECOD), categories in at most 0.5 % of the rows",
    )
    return report.model_copy(update={"markdown": _markdown(report, anomalies)})


def _markdown(report: ComplianceReport, anomalies: list[Anomaly]) -> str:
    lines = [
        "# Anomaly report",
        "",
        (
            f"Made {report.made_at:%Y-%m-%d %H:%M} UTC. {report.rows} rows, {len(report.columns_checked)} columns "
            f"checked, {report.anomalous_rows} anomalous rows, {report.duplicate_rows} duplicates, "
            f"{sum(report.missing_values.values())} missing values."
        ),
        "",
        f"Method: {report.method}. Not checked: {', '.join(report.columns_skipped) or 'nothing'}.",
        "",
        "| row | score | reasons |",
        "| --- | --- | --- |",
    ]
    for one in anomalies[:50]:
        reasons = "; ".join(f"{r.column} = {r.value}, expected {r.expected}" for r in one.reasons)
        lines.append(f"| {one.row} | {one.score:.2f} | {reasons.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


KIND = DetectAnomaliesKind()
