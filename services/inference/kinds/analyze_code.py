"""analyze-code: bugs, security, inefficiency and GPU advice from analysers, optionally explained by a code model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.analyze_code import (
    MAX_CODE_BYTES,
    AnalyzeCode,
    AnalyzeCodeResult,
    CodeFinding,
)
from accelerator_autopilot.inference.adapters.code_analysis import CODE, analyse_sandboxed
from accelerator_autopilot.inference.adapters.sandbox import Sandbox
from accelerator_autopilot.inference.domain.sarif import sarif
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.kinds.files import as_text, collect
from accelerator_autopilot.inference.model_loading import generator
from accelerator_autopilot.inference.ports import GenerationRequest

EXPLAINED = 10
EXPLANATION_TOKENS = 512


class AnalyzeCodeKind:
    """One code base a job."""

    name = "analyze-code"
    input = AnalyzeCode
    output = AnalyzeCodeResult
    max_batch = 1

    def run(self, inputs: Sequence[AnalyzeCode], context: RunContext) -> list[BaseModel | BaseException]:
        """Analyse each code base."""
        return each(lambda item, index: self._one(item, index, context), inputs)

    def _one(self, item: AnalyzeCode, index: int, context: RunContext) -> AnalyzeCodeResult:
        sandbox = Sandbox(context.models.sandbox, context.models.sandbox_uid)
        texts, unreadable = _texts(item)
        analysis = analyse_sandboxed(sandbox, texts, item.language, lambda: context.cancelled(index))
        context.progress(index, 0.8)
        skipped = unreadable + analysis.skipped
        if not analysis.languages:
            raise InvalidInputError("code", ", ".join(skipped)[:200] or None, "is not in a supported language")
        return AnalyzeCodeResult(
            languages=analysis.languages,
            skipped=skipped,
            findings=analysis.findings,
            counts=analysis.counts,
            suppressed=analysis.suppressed,
            explanation=_explain([f for f in analysis.findings if not f.suppressed], texts, context),
            sarif=sarif(analysis.findings),
        )


def _texts(item: AnalyzeCode) -> tuple[dict[str, str], list[str]]:
    """Return texts by name, `code` among them, and the names of files that are not text."""
    sources = collect(item.files, item.archive)
    if sum(len(data) for data in sources.values()) > MAX_CODE_BYTES:
        raise InvalidInputError(
            "files", sum(map(len, sources.values())), f"may have at most {MAX_CODE_BYTES} bytes together"
        )
    texts: dict[str, str] = {}
    unreadable: list[str] = []
    for name, data in sources.items():
        try:
            texts[name] = as_text(data, name)
        except InvalidInputError:
            unreadable.append(name)
    if item.code is not None:
        texts[CODE] = item.code
    return texts, unreadable


def _explain(findings: list[CodeFinding], texts: dict[str, str], context: RunContext) -> str | None:
    if context.models.code_model is None or not findings:
        return None
    listed = []
    for finding in findings[:EXPLAINED]:
        lines = texts.get(CODE if finding.file == f"{CODE}.py" else finding.file, "").splitlines()
        code = lines[finding.line - 1].strip() if 0 < finding.line <= len(lines) else ""
        listed.append(f"{finding.file}:{finding.line} {finding.rule} {finding.message}\n    {code}")
    prompt = "Explain these findings to the author and say how to fix each:\n" + "\n".join(listed) + "\n\nAnswer:"
    model = generator(context.models, context.models.code_model, "code_model")
    request = GenerationRequest(prompt, EXPLANATION_TOKENS)
    return model.start(request, lambda _: None, lambda: context.cancelled(0)).result().text


KIND = AnalyzeCodeKind()
