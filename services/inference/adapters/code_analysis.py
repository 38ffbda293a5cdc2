"""Analyse a code base entirely inside the sandbox, since parsers have been exploited by their input too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.analyze_code import CodeFinding
from accelerator_autopilot.inference.adapters.python_analysis import RUFF, TIMEOUT_S, analyse_python
from accelerator_autopilot.inference.adapters.sandbox import HOME, PACKAGES, PROGRAM, Sandbox
from accelerator_autopilot.inference.adapters.tree_analysis import GRAMMARS, analyse_other, language_of
from accelerator_autopilot.inference.errors import RetryableJobError

CODE = "code"  # file name of a text that was submitted without one
TEXTS = "texts.json"
START = f"import sys; sys.path.insert(0, {PACKAGES!r}); from {__name__} import main; main()"
ANSWER = "ANALYSIS "
FAULT = "FAULT "
ALL_TOOLS_S = 3 * TIMEOUT_S
LISTED = 5000
MAX_MESSAGE = 1000
OUTPUT_BYTES = 64 * 2**20
RANK = {"error": 0, "warning": 1, "note": 2}


class Analysis(BaseModel):
    """What was found: the number of findings per category, and the most severe ones."""

    languages: dict[str, int]
    skipped: list[str]
    findings: list[CodeFinding]
    counts: dict[str, int]
    suppressed: int


def analyse_sandboxed(
    sandbox: Sandbox, texts: Mapping[str, str], language: str | None, cancelled: Callable[[], bool]
) -> Analysis:
    """Analyse texts by file name in the sandbox.

    `language` is the language of the text named CODE; None detects it. Raises RetryableJobError when a tool exceeds
    its time limit and InvalidInputError when an analyser crashes on the code.
    """
    finished = sandbox.run(
        {f"program/{TEXTS}": json.dumps({"texts": dict(texts), "language": language})},
        ["-c", START],
        timeout_s=ALL_TOOLS_S,
        cancelled=cancelled,
        packages=True,
        tools=[RUFF],
        output_bytes=OUTPUT_BYTES,
    )
    for line in reversed(finished.output.splitlines()):
        if line.startswith(FAULT):
            raise RetryableJobError(line.removeprefix(FAULT)[:1000])
        if line.startswith(ANSWER) and finished.code == 0:
            try:
                return Analysis.model_validate_json(line.removeprefix(ANSWER))
            except ValidationError:
                break
    if finished.end in {"time", "cancelled"}:
        raise RetryableJobError(f"the analysers did not finish within {ALL_TOOLS_S} s")
    why = f"exit code {finished.code}" if finished.end == "exit" else f"{finished.end} limit exceeded"
    raise InvalidInputError("code", why, "cannot be analysed: an analyser crashed; submit fewer files at a time")


def analyse(texts: Mapping[str, str], language: str | None, folder: Path) -> Analysis:
    """Analyse texts by file name with tools that read their files from `folder`."""
    python: dict[str, str] = {}
    other: dict[str, tuple[str, str]] = {}
    skipped: list[str] = []
    languages: dict[str, int] = {}
    for name, text in texts.items():
        found = language if name == CODE and language else language_of(name, text)
        if found != "python" and found not in GRAMMARS:
            skipped.append(name)
            continue
        languages[str(found)] = languages.get(str(found), 0) + 1
        if found == "python":
            # A submitted file may have the same name; neither may overwrite the other.
            python[f"{CODE}.py" if name == CODE and f"{CODE}.py" not in texts else name] = text
        else:
            other[name] = (str(found), text)
    findings = (analyse_python(python, folder) if python else []) + analyse_other(other)
    findings.sort(key=lambda f: (f.suppressed, RANK[f.severity], f.file, f.line))
    heard = [f for f in findings if not f.suppressed]
    counts: dict[str, int] = {}
    for finding in heard:
        counts[finding.category] = counts.get(finding.category, 0) + 1
    listed = [f.model_copy(update={"message": f.message[:MAX_MESSAGE]}) for f in findings[:LISTED]]
    return Analysis(
        languages=languages, skipped=skipped, findings=listed, counts=counts, suppressed=len(findings) - len(heard)
    )


def main() -> None:
    """Run inside the sandbox: read the texts, and write the analysis or the error to standard output."""
    given = json.loads((Path(PROGRAM) / TEXTS).read_text(encoding="utf-8"))
    try:
        answer = ANSWER + analyse(given["texts"], given["language"], Path(HOME) / "sources").model_dump_json()
    except RetryableJobError as error:
        answer = FAULT + str(error).replace("\n", " ")
    sys.stdout.write(f"\n{answer}\n")
