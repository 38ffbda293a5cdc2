"""Test programs from what was seen of a module, and test results from what pytest wrote. Pure."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerator_autopilot.contracts.errors import InvalidInputError

# A module of such a name would be imported in the place of what its tests need.
TAKEN = sys.stdlib_module_names | {
    "conftest", "pytest", "hypothesis", "pluggy", "iniconfig", "packaging", "attr", "attrs", "sortedcontainers",
    "black", "sitecustomize", "usercustomize", "numpy", "pandas", "inf", "nan",
}  # fmt: skip
SAFE_NAME = re.compile(r"\W+")


@dataclass(frozen=True)
class Verdict:
    """How one test ended."""

    passed: bool
    output: str


def check_module(module: str, code: str) -> None:
    """Raises InvalidInputError for what is no Python, has no function to test, or a name that the tests need."""
    if module in TAKEN or module.startswith(("test_", "_")):
        raise InvalidInputError("module", module, "is reserved for the tests; choose another name")
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # MemoryError is what the parser says of code that is nested too deeply; no device has too little of it.
        line = f"line {error.lineno}" if isinstance(error, SyntaxError) else type(error).__name__
        raise InvalidInputError("code", line, "is not valid Python") from error
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not any(not f.name.startswith("_") for f in functions):
        raise InvalidInputError("code", len(functions), "has no public top-level function")


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
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]


def first_code_block(text: str) -> str:
    """The code in a model's answer."""
    match = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return match[1] if match else text


def told(output: str, mark: str) -> list[dict[str, Any]]:
    """What a program in the sandbox told on lines that begin with this mark; what is no JSON object is left out."""
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
    """How each test file ended, from how each of its tests did."""
    found: dict[str, Verdict] = {}
    for result in results:
        file, passed = str(result.get("file")), result.get("passed") is True
        before = found.get(file, Verdict(passed=True, output=""))
        found[file] = Verdict(before.passed and passed, before.output + str(result.get("output") or "")[-2000:])
    return found
