"""Test programs from what was seen of a module, and test results from what pytest wrote. Pure."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET  # the sandbox's own output, read with entities refused below
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidInputError

SAFE_NAME = re.compile(r"\W+")


@dataclass(frozen=True)
class Verdict:
    """How one test ended."""

    passed: bool
    output: str


def check_module(code: str) -> None:
    """Raises InvalidInputError for what is no Python or has no function to test."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f"line {error.lineno}" if isinstance(error, SyntaxError) else type(error).__name__
        raise InvalidInputError("code", line, "is no valid Python") from error
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not any(not f.name.startswith("_") for f in functions):
        raise InvalidInputError("code", len(functions), "has no public function at its top level")


def characterization(case: dict[str, Any], module: str, number: int) -> str | None:
    """A test that holds a function to what it did; None when that cannot be written down."""
    name = f"test_{SAFE_NAME.sub('_', case['function'])}_edge_{number}"
    call = f"{module}.{case['function']}(*{case['arguments']})"
    head = f"import pytest\n\nimport {module}\n\ninf, nan = float('inf'), float('nan')\n\n\ndef {name}():\n"
    if "raises" in case:
        if not case.get("builtin"):
            return None
        return f"{head}    with pytest.raises({case['raises']}):\n        {call}\n"
    return f"{head}    assert {call} == {case['result']}\n" if case["plain"] else None


def function_names(code: str) -> list[str]:
    """The tests that a program holds; none when it is no Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return []
    return [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]


def first_code_block(text: str) -> str:
    """The code in a model's answer."""
    match = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return match[1] if match else text


def verdicts(report: str) -> dict[str, Verdict]:
    """Results by test file, from pytest's JUnit report."""
    if "<!" in report:
        return {}
    try:
        root = ET.fromstring(report)  # noqa: S314  no declarations, so no entities
    except ET.ParseError:
        return {}
    found: dict[str, Verdict] = {}
    for case in root.iter("testcase"):
        file = (case.get("classname") or case.get("name") or "").split(".")[0]
        bad = next((c for c in case if c.tag in {"failure", "error"}), None)
        skipped = any(c.tag == "skipped" for c in case)
        before = found.get(file)
        passed = bad is None and not skipped and (before is None or before.passed)
        text = (bad.text or bad.get("message") or "")[-2000:] if bad is not None else ""
        found[file] = Verdict(passed, (before.output if before else "") + text)
    return found
