"""analyze-code: bugs, security, inefficiency and GPU advice from analysers, explained by a code model if any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from services.inference.adapters.python_analysis import analyse_python
from services.inference.adapters.tree_analysis import analyse_other, language_of
from services.inference.domain.code_findings import CodeFinding, sarif
from services.inference.kinds.base import Input, RunContext, each
from services.inference.kinds.files import FileInput, as_text, collect
from services.inference.models import generator
from services.inference.ports import GenerationRequest
from shared.errors import InvalidInputError

MOST_BYTES = 20_000_000
LISTED = 5000
EXPLAINED = 10
EXPLANATION_TOKENS = 512
RANK = {"error": 0, "warning": 1, "note": 2}


class AnalyzeCodeInput(Input):
    """Code as text, as files, or as an archive in base64."""

    code: str | None = Field(default=None, max_length=MOST_BYTES)
    language: str | None = Field(default=None, description="of `code`; found out otherwise")
    files: list[FileInput] = Field(default=[], max_length=5000)
    archive: str | None = None


class AnalyzeCodeOutput(BaseModel):
    """Findings, worst first, the same as SARIF, and what the code model says of them."""

    languages: dict[str, int]
    skipped: list[str]
    findings: list[CodeFinding]
    counts: dict[str, int]
    explanation: str | None
    sarif: dict[str, Any]


class AnalyzeCode:
    """One code base a job."""

    name = "analyze-code"
    input = AnalyzeCodeInput
    output = AnalyzeCodeOutput
    max_batch = 1

    def run(self, inputs: Sequence[AnalyzeCodeInput], context: RunContext) -> list[BaseModel | BaseException]:
        """Analyse each code base."""
        return each(lambda item, index: self._one(item, index, context), inputs)

    def _one(self, item: AnalyzeCodeInput, index: int, context: RunContext) -> AnalyzeCodeOutput:
        python, other, skipped = _sorted(item)
        findings = analyse_python(python, context.scratch.folder / f"code-{index}") if python else []
        context.progress(index, 0.5)
        findings += analyse_other(other)
        findings.sort(key=lambda f: (RANK[f.severity], f.file, f.line))
        languages: dict[str, int] = {"python": len(python)} if python else {}
        for language, _ in other.values():
            languages[language] = languages.get(language, 0) + 1
        counts: dict[str, int] = {}
        for finding in findings:
            counts[finding.category] = counts.get(finding.category, 0) + 1
        return AnalyzeCodeOutput(
            languages=languages,
            skipped=skipped,
            findings=findings[:LISTED],
            counts=counts,
            explanation=_explain(findings, python | {n: t for n, (_, t) in other.items()}, context),
            sarif=sarif(findings[:LISTED]),
        )


def _sorted(item: AnalyzeCodeInput) -> tuple[dict[str, str], dict[str, tuple[str, str]], list[str]]:
    sources = collect(item.files, item.archive)
    if sum(len(data) for data in sources.values()) > MOST_BYTES:
        raise InvalidInputError("files", sum(map(len, sources.values())), f"may have {MOST_BYTES} bytes together")
    texts: dict[str, str] = {}
    skipped: list[str] = []
    for name, data in sources.items():
        try:
            texts[name] = as_text(data, name)
        except InvalidInputError:
            skipped.append(name)
    if item.code is not None:
        texts["code"] = item.code
    python: dict[str, str] = {}
    other: dict[str, tuple[str, str]] = {}
    for name, text in texts.items():
        language = item.language if name == "code" and item.language else language_of(name, text)
        if language == "python":
            python["code.py" if name == "code" else name] = text
        elif language in {None, "unknown"}:
            skipped.append(name)
        else:
            other[name] = (str(language), text)
    if not python and not other:
        raise InvalidInputError("code", ", ".join(skipped)[:200] or None, "is in no language that can be analysed")
    return python, other, skipped


def _explain(findings: list[CodeFinding], texts: dict[str, str], context: RunContext) -> str | None:
    if context.models.code_model is None or not findings:
        return None
    listed = []
    for finding in findings[:EXPLAINED]:
        lines = texts.get(finding.file, "").splitlines()
        code = lines[finding.line - 1].strip() if 0 < finding.line <= len(lines) else ""
        listed.append(f"{finding.file}:{finding.line} {finding.rule} {finding.message}\n    {code}")
    prompt = "Explain these findings to the author and say how to fix each:\n" + "\n".join(listed) + "\n\nAnswer:"
    model = generator(context.models, context.models.code_model, "code_model")
    request = GenerationRequest(prompt, EXPLANATION_TOKENS)
    return model.start(request, lambda _: None, lambda: context.cancelled(0)).result().text


KIND = AnalyzeCode()
