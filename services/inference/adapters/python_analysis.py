"""Python code through ruff, bandit and radon, and torch advice."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inference.domain.code_findings import Category, CodeFinding, Severity
from services.inference.domain.torch_advice import advise
from services.inference.errors import RetryableJobError

TIMEOUT_S = 120
# Bugs, blind spots, speed, simplification; security is bandit's.
RULES = "E9,F,B,PERF,C4,SIM,PIE,RET,ARG,PLE,PLW,RUF,ASYNC,NPY,PD,TRY,UP"
CATEGORIES: tuple[tuple[str, Category], ...] = (
    ("PERF", "inefficiency"), ("C4", "inefficiency"), ("E9", "syntax"), ("invalid-syntax", "syntax"),
    ("F", "bug"), ("B", "bug"), ("PLE", "bug"), ("PLW", "bug"), ("ASYNC", "bug"), ("ARG", "bug"),
)  # fmt: skip
COMPLEX, TOO_COMPLEX = 10, 20  # McCabe, "A Complexity Measure", IEEE TSE 1976; radon's ranks C and D


def analyse_python(files: Mapping[str, str], folder: Path) -> list[CodeFinding]:
    """Findings of every file. Files are written to `folder`, and never run.

    Raises RetryableJobError when an analyser does not end in time.
    """
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    findings = [*_ruff(folder), *_bandit(folder)]
    for name, text in files.items():
        findings += _radon(name, text)
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        findings += [
            CodeFinding(
                file=name, line=a.line, rule=a.rule, tool="torch-advice", category="gpu", severity="warning",
                message=a.message,
            )
            for a in advise(tree)
        ]  # fmt: skip
    return findings


def _run(folder: Path, *command: str) -> Any:
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "RUFF_NO_CACHE": "true"}
    try:
        done = subprocess.run(  # noqa: S603  our own commands
            [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RetryableJobError(f"{command[0]} did not end within {TIMEOUT_S} s") from error
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise RetryableJobError(f"{command[0]} gave no findings (exit code {done.returncode})") from error


def _ruff(folder: Path) -> list[CodeFinding]:
    found = _run(folder, "ruff", "check", "--isolated", "--exit-zero", "--output-format=json", f"--select={RULES}", ".")
    findings = []
    for one in found:
        code = one["code"] or "invalid-syntax"
        category = next((c for prefix, c in CATEGORIES if code.startswith(prefix)), "style")
        severity: Severity = "error" if category == "syntax" or code[:3] in {"F82", "PLE"} else "warning"
        findings.append(
            CodeFinding(
                file=_relative(one["filename"], folder), line=one["location"]["row"], column=one["location"]["column"],
                rule=code, tool="ruff", category=category, severity="note" if category == "style" else severity,
                message=one["message"], url=one.get("url") or "",
            )
        )  # fmt: skip
    return findings


def _bandit(folder: Path) -> list[CodeFinding]:
    found = _run(folder, "bandit", "--recursive", "--format=json", "--quiet", "--exit-zero", ".")
    levels: dict[str, Severity] = {"HIGH": "error", "MEDIUM": "warning", "LOW": "note"}
    return [
        CodeFinding(
            file=_relative(one["filename"], folder), line=one["line_number"], column=one.get("col_offset", 0) + 1,
            rule=one["test_id"], tool="bandit", category="security", severity=levels[one["issue_severity"]],
            message=one["issue_text"], url=one.get("more_info") or "",
        )
        for one in found["results"]
    ]  # fmt: skip


def _radon(name: str, text: str) -> list[CodeFinding]:
    from radon.complexity import cc_visit  # noqa: PLC0415  a worker starts faster without

    try:
        blocks = cc_visit(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [
        CodeFinding(
            file=name, line=block.lineno, column=block.col_offset + 1, rule="CC", tool="radon", category="complexity",
            severity="warning" if block.complexity > TOO_COMPLEX else "note",
            message=f"{block.name} has cyclomatic complexity {block.complexity}",
        )
        for block in blocks
        if block.complexity > COMPLEX
    ]  # fmt: skip


def _relative(filename: str, folder: Path) -> str:
    path = Path(filename)
    return str(path.resolve().relative_to(folder.resolve()) if path.is_absolute() else path)
