"""Build test programs from observed behaviour, and read the results that pytest wrote. Pure."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerator_autopilot.contracts.errors import InvalidInputError

# A module of such a name would shadow what its tests import.
TAKEN = sys.stdlib_module_names | {
    "conftest", "pytest", "hypothesis", "pluggy", "iniconfig", "packaging", "attr", "attrs", "sortedcontainers",
    "black", "sitecustomize", "usercustomize", "numpy", "pandas", "inf", "nan",
}  # fmt: skip
SAFE_NAME = re.compile(r"\W+")


@dataclass(frozen=True)
class Verdict:
    """The outcome of one test."""

    passed: bool
    output: str


def check_module(module: str, code: str) -> None:
    """Raise InvalidInputError for invalid Python, a module without functions to test, or a reserved name."""
    if module in TAKEN or module.startswith(("test_", "_")):
        raise InvalidInputError("module", module, "is reserved for the tests; choose another name")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # The parser raises MemoryError for code that is nested too deeply; no device is short of memory.
        line = f"line {error.lineno}" if isinstance(error, SyntaxError) else type(error).__name__
        raise InvalidInputError("code", line, "is not valid Python") from error
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not any(not f.name.startswith("_") for f in functions):
        raise InvalidInputError("code", len(functions), "has no public top-level function")


def characterization(case: dict[str, Any], module: str, number: int) -> str | None:
    """Return a test that pins what a function did; None when that cannot be expressed."""
    name = f"test_{SAFE_NAME.sub('_', case['function'])}_edge_{number}"
    call = f"{module}.{case['function']}(*{case['arguments']})"
    head = f"import pytest\n\nimport {module}\n\ninf, nan = float('inf'), float('nan')\n\n\ndef {name}():\n"
    if "raises" in case:
        if not case.get("builtin"):
            return None
        return f"{head}    with pytest.raises({case['raises']}):\n        {call}\n"
    return f"{head}    assert {call} == {case['result']}\n" if case["plain"] else None


def function_names(code: str) -> list[str]:
    """Return the names of the tests in a program; none when it is not valid Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]


def first_code_block(text: str) -> str:
    """Return the code in a model's answer."""
    match = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return match[1] if match else text


def printed_objects(output: str, mark: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a sandboxed program printed on lines with this prefix; others are ignored."""
    found = []
    for line in output.splitlines():
        if line.startswith(f"{mark} "):
            try:
                one = json.loads(line[len(mark) + 1 :])
            except (ValueError, RecursionError):
                continue
            if isinstance(one, dict):
                found.append(one)
    return found


def verdicts(results: Sequence[Mapping[str, Any]]) -> dict[str, Verdict]:
    """Return the outcome of each test file, from the outcomes of its tests."""
    found: dict[str, Verdict] = {}
    for result in results:
        file, passed = str(result.get("file")), result.get("passed") is True
        before = found.get(file, Verdict(passed=True, output=""))
        found[file] = Verdict(before.passed and passed, before.output + str(result.get("output") or "")[-2000:])
    return found
