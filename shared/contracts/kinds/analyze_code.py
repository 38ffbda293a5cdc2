"""analyze-code: find bugs, security problems, inefficiencies and GPU mistakes in code."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples
from accelerator_autopilot.contracts.kinds.files import File

MAX_CODE_BYTES = 20_000_000
Category = Literal["bug", "security", "inefficiency", "gpu", "complexity", "syntax", "style"]
Severity = Literal["error", "warning", "note"]


class CodeFinding(BaseModel):
    """A finding. `tool` is the analyser that reported it.

    `suppressed` says that a comment in the code (`# noqa`, `# nosec`) tells the analyser to ignore it.
    """

    file: str
    line: int
    column: int = 1
    rule: str
    tool: str
    category: Category
    severity: Severity
    message: str
    url: str = ""
    suppressed: bool = False


class AnalyzeCodeResult(Result, Tabular):
    """Findings, worst first, also as SARIF, and the code model's explanation.

    `counts` are of findings that no comment in the code suppresses; `suppressed` is the number of the others, which
    are listed last. More than 5,000 findings are counted, not listed.
    """

    languages: dict[str, int]
    skipped: list[str]
    findings: list[CodeFinding]
    counts: dict[str, int]
    suppressed: int = 0
    explanation: str | None
    sarif: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """One row per finding."""
        return [f.model_dump() for f in self.findings]


class AnalyzeCode(Payload[AnalyzeCodeResult]):
    """Code as text, as files, or as an archive in base64."""

    kind_name = "analyze-code"
    result_model = AnalyzeCodeResult
    model_config = examples({"code": "import os\n\ndef f(x=[]):\n    return eval(x)\n"})

    code: str | None = Field(default=None, max_length=MAX_CODE_BYTES)
    language: str | None = Field(default=None, description="language of `code`; detected by default")
    files: list[File] = Field(default=[], max_length=5000)
    archive: str | None = None
