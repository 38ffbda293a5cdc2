"""analyze-logs: templates, bursts, new and vanished templates, the first error and its likely root cause."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.analyze_logs import (
    AnalyzeLogs,
    AnalyzeLogsResult,
    Burst,
    LogLine,
    RootCause,
    Template,
)
from accelerator_autopilot.inference.domain import log_root_cause
from accelerator_autopilot.inference.domain.log_lines import badness, pattern_of, timestamp
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.kinds.files import as_text, collect
from accelerator_autopilot.transport.clock import utc_now

MAX_LINES = 2_000_000
LINE_CHARACTERS = 4000
LISTED = 100
# Variable parts of a line that do not identify its template, in the order in which they are masked.
MASKS = (
    (r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2})?", "TIME"),
    (r"^[A-Z][a-z]{2} +\d{1,2} \d{2}:\d{2}:\d{2}", "TIME"),
    (r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", "UUID"),
    (r"(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?", "IP"),
    (r"0x[0-9a-fA-F]+", "HEX"),
    (r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.])", "NUM"),
)


class AnalyzeLogsKind:
    """One log a job."""

    name = "analyze-logs"
    input = AnalyzeLogs
    output = AnalyzeLogsResult
    max_batch = 1

    def run(self, inputs: Sequence[AnalyzeLogs], context: RunContext) -> list[BaseModel | BaseException]:
        """Analyse each log."""
        return each(lambda item, index: self._one(item, index, context), inputs)

    def _one(self, item: AnalyzeLogs, index: int, context: RunContext) -> AnalyzeLogsResult:
        sources = {name: as_text(data, name) for name, data in collect(item.files, item.archive).items()}
        if item.text is not None:
            sources["text"] = item.text
        if not any(text.strip() for text in sources.values()):
            raise InvalidInputError("text", 0, "contains no lines")
        miner = _miner()
        before = {_mine(miner, line) for line in (item.baseline or "").splitlines() if line.strip()}
        lines = list(_read(sources, miner, lambda share: context.progress(index, share)))
        return _describe(lines, miner, before if item.baseline else None)


def _miner() -> Any:
    from drain3 import TemplateMiner  # noqa: PLC0415  a worker starts faster without
    from drain3.masking import MaskingInstruction  # noqa: PLC0415
    from drain3.template_miner_config import TemplateMinerConfig  # noqa: PLC0415

    config = TemplateMinerConfig()
    config.masking_instructions = [MaskingInstruction(pattern, name) for pattern, name in MASKS]
    config.drain_max_clusters = 10_000
    return TemplateMiner(config=config)


def _mine(miner: Any, line: str) -> int:
    return int(miner.add_log_message(line[:LINE_CHARACTERS])["cluster_id"])


def _read(sources: dict[str, str], miner: Any, progress: Any) -> Iterator[log_root_cause.Line]:
    number, year = 0, utc_now().year
    for done, (name, text) in enumerate(sources.items()):
        for line in text.splitlines():
            if not line.strip():
                continue
            number += 1
            if number > MAX_LINES:
                raise InvalidInputError("text", f"over {MAX_LINES} lines", "is too long for one job: split it")
            yield log_root_cause.Line(number, line[:LINE_CHARACTERS], _mine(miner, line), timestamp(line, year), name)
        progress((done + 1) / len(sources))


def _describe(lines: list[log_root_cause.Line], miner: Any, before: set[int] | None) -> AnalyzeLogsResult:
    names = {c.cluster_id: c.get_template() for c in miner.drain.clusters}
    of: dict[int, list[log_root_cause.Line]] = {}
    gpu: dict[str, list[LogLine]] = {}
    for line in lines:
        of.setdefault(line.template, []).append(line)
        if found := pattern_of(line.text):
            gpu.setdefault(found.kind, []).append(_shown(line))
    new = set(of) - before if before is not None else set()
    counts = {template: len(its) for template, its in of.items()}
    cause = log_root_cause.root_cause(lines, counts, new)
    error = log_root_cause.first_error(lines)
    worst = {t: max(badness(line.text) for line in its[:5]) for t, its in of.items()}
    ordered = sorted(of, key=lambda t: (-worst[t], -counts[t]))
    return AnalyzeLogsResult(
        lines=len(lines),
        errors=sum(counts[t] for t in of if worst[t] >= 2),
        warnings=sum(counts[t] for t in of if worst[t] == 1),
        templates=[
            Template(
                id=t,
                template=names.get(t, ""),
                count=counts[t],
                first_line=of[t][0].number,
                last_line=of[t][-1].number,
                example=of[t][0].text,
                severity=worst[t],
            )
            for t in ordered[:LISTED]
        ],
        bursts=[
            Burst(
                template=names.get(b.template, ""), first_line=b.first, last_line=b.last, count=b.count, usual=b.usual
            )
            for b in log_root_cause.bursts(lines)[:LISTED]
        ],
        new_templates=[names[t] for t in ordered if t in new][:LISTED],
        vanished_templates=[names[t] for t in sorted((before or set()) - set(of)) if t in names][:LISTED],
        first_error=_shown(error) if error else None,
        root_cause=RootCause(
            line=_shown(cause.line),
            reason=cause.reason,
            confidence=cause.confidence,
            evidence=[_shown(line) for line in cause.chain],
        )
        if cause
        else None,
        gpu={kind: its[:LISTED] for kind, its in gpu.items()},
    )


def _shown(line: log_root_cause.Line) -> LogLine:
    found = pattern_of(line.text)
    return LogLine(
        source=line.source, line=line.number, text=line.text, at=line.at, meaning=found.meaning if found else ""
    )


KIND = AnalyzeLogsKind()
