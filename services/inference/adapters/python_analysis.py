"""Analyse Python code with ruff, bandit and radon, and give PyTorch advice.

The tools see files under generated numbers and our configuration, so no name that a submitter chose is imported, read
as configuration or skipped as an excluded folder. Comments that suppress a finding do not hide it; the finding is
marked as suppressed.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import sysconfig
import threading
import tokenize
from collections.abc import Generator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from accelerator_autopilot.contracts.kinds.analyze_code import Category, CodeFinding, Severity
from accelerator_autopilot.inference.domain.gpu_advice import advise
from accelerator_autopilot.inference.errors import RetryableJobError

TIMEOUT_S = 120
MAX_FINDINGS_PER_TOOL = 20_000
MAX_OUTPUT = 128 * 2**20
RUFF = Path(sysconfig.get_path("scripts")) / "ruff"
# Bugs, blind spots, speed, simplification; security is bandit's.
RULES = "E9,F,B,PERF,C4,SIM,PIE,RET,ARG,PLE,PLW,RUF,ASYNC,NPY,PD,TRY,UP"
CATEGORIES: tuple[tuple[str, Category], ...] = (
    ("PERF", "inefficiency"), ("C4", "inefficiency"), ("E9", "syntax"), ("invalid-syntax", "syntax"),
    ("F", "bug"), ("B", "bug"), ("PLE", "bug"), ("PLW", "bug"), ("ASYNC", "bug"), ("ARG", "bug"),
)  # fmt: skip
COMPLEX, TOO_COMPLEX = 10, 20  # McCabe, "A Complexity Measure", IEEE TSE 1976; the bounds of radon's ranks C and D
# as bandit parses it: the whole line, or the tests that it names
NOSEC = re.compile(r"#\s*nosec:?\s*(?P<tests>[^#]+)?#?")


def analyse_python(files: Mapping[str, str], folder: Path) -> list[CodeFinding]:
    """Return the findings of every file.

    Files are written to `folder` under numbers and never run. Raises RetryableJobError when an analyser exceeds its
    time limit or returns unreadable output.
    """
    names: dict[str, str] = {}
    for number, (name, text) in enumerate(files.items()):
        path = folder / str(number) / _plain_name(name)
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8", newline="")
        names[str(path)] = name
    findings = [*_ruff(folder, names), *_bandit(folder, names, files)]
    for name, text in files.items():
        findings += _radon(name, text)
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        findings += [
            CodeFinding(
                file=name, line=a.line, rule=a.rule, tool="torch-advice", category="gpu", severity="warning",
                message=a.message,
            )
            for a in advise(tree)
        ]  # fmt: skip
    return findings


def _plain_name(name: str) -> str:
    """Return a safe name that keeps what tools need to know: whether it is a stub, or a package's `__init__`."""
    path = PurePosixPath(name)
    suffix = ".pyi" if path.suffix.lower() == ".pyi" else ".py"
    return f"__init__{suffix}" if path.stem == "__init__" else f"source{suffix}"


def _lines(name: str, *command: str) -> Generator[bytes, None, None]:
    """Yield the output of a tool line by line.

    Raises RetryableJobError when it exceeds its time limit or writes too much.
    """
    process = subprocess.Popen(  # noqa: S603  our own commands
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    timed_out = threading.Event()

    def give_up() -> None:
        timed_out.set()
        process.kill()

    alarm, total = threading.Timer(TIMEOUT_S, give_up), 0
    alarm.start()
    try:
        assert process.stdout is not None  # noqa: S101  piped
        while line := process.stdout.readline(MAX_OUTPUT):
            total += len(line)
            if total > MAX_OUTPUT:
                raise RetryableJobError(f"{name} wrote more than {MAX_OUTPUT} bytes; submit fewer files at a time")
            yield line
        process.wait()
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
    if timed_out.is_set():
        raise RetryableJobError(f"{name} did not finish within {TIMEOUT_S} s")
    if process.returncode != 0:
        raise RetryableJobError(f"{name} returned no findings (exit code {process.returncode})")


def _ruff_run(folder: Path, *more: str) -> list[dict[str, Any]]:
    lines = _lines(
        "ruff", str(RUFF), "check", "--isolated", "--no-cache", "--no-respect-gitignore", "--no-force-exclude",
        "--exit-zero", "--quiet", "--output-format=json-lines", f"--select={RULES}", *more, str(folder),
    )  # fmt: skip
    found = []
    for line in lines:
        found.append(json.loads(line))
        if len(found) == MAX_FINDINGS_PER_TOOL:
            lines.close()
            break
    return found


def _ruff(folder: Path, names: Mapping[str, str]) -> list[CodeFinding]:
    def place(one: dict[str, Any]) -> tuple[str, int, int, str]:
        return one["filename"], one["location"]["row"], one["location"]["column"], one["code"] or "invalid-syntax"

    heard = {place(one) for one in _ruff_run(folder)}
    findings = []
    for one in _ruff_run(folder, "--ignore-noqa"):
        filename, row, column, code = place(one)
        category = next((c for prefix, c in CATEGORIES if code.startswith(prefix)), "style")
        severity: Severity = "error" if category == "syntax" or code[:3] in {"F82", "PLE"} else "warning"
        findings.append(
            CodeFinding(
                file=names[filename], line=row, column=column, rule=code, tool="ruff", category=category,
                severity="note" if category == "style" else severity, message=one["message"],
                url=one.get("url") or "", suppressed=place(one) not in heard,
            )
        )  # fmt: skip
    return findings


def _bandit(folder: Path, names: Mapping[str, str], files: Mapping[str, str]) -> list[CodeFinding]:
    own = folder / "bandit.ini"
    own.write_text("[bandit]\n", encoding="utf-8")
    output = b"".join(
        _lines(
            "bandit", sys.executable, "-I", "-m", "bandit", "--recursive", "--ini", str(own), "--ignore-nosec",
            "--exclude", "", "--number", "1", "--format=json", "--quiet", "--exit-zero", str(folder),
        )
    )  # fmt: skip
    levels: dict[str, Severity] = {"HIGH": "error", "MEDIUM": "warning", "LOW": "note"}
    silenced: dict[str, dict[int, str]] = {}
    findings = []
    for one in json.loads(output)["results"][:MAX_FINDINGS_PER_TOOL]:
        name = names[one["filename"]]
        if name not in silenced:
            silenced[name] = _nosec(files[name])
        marks = [silenced[name].get(line) for line in {one["line_number"], *one.get("line_range", [])}]
        findings.append(
            CodeFinding(
                file=name, line=one["line_number"], column=one.get("col_offset", 0) + 1, rule=one["test_id"],
                tool="bandit", category="security", severity=levels.get(one["issue_severity"], "note"),
                message=one["issue_text"], url=one.get("more_info") or "",
                suppressed=any(mark is not None and _means(mark, one) for mark in marks),
            )
        )  # fmt: skip
    return findings


def _nosec(text: str) -> dict[int, str]:
    """Return the lines where a comment suppresses bandit, with the tests that it names."""
    found: dict[int, str] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and (match := NOSEC.search(token.string)):
                found[token.start[0]] = (match["tests"] or "").strip()
    except (tokenize.TokenError, SyntaxError, ValueError):
        return found
    return found


def _means(tests: str, issue: dict[str, Any]) -> bool:
    named = set(re.findall(r"\bB\d{3}\b|\b[a-z_]+_[a-z_]+\b", tests))
    return not named or issue["test_id"] in named or issue["test_name"] in named


def _radon(name: str, text: str) -> list[CodeFinding]:
    from radon.complexity import cc_visit  # noqa: PLC0415  a worker starts faster without

    try:
        blocks = cc_visit(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
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
