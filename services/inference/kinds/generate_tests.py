"""generate-tests: tests for a Python module, each of them run in a sandbox before it is returned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, Field

from services.inference.adapters.sandbox import HOME, Finished, Sandbox
from services.inference.domain.written_tests import (
    Verdict,
    characterization,
    check_module,
    first_code_block,
    function_names,
    verdicts,
)
from services.inference.kinds.base import Input, RunContext, each
from services.inference.models import generator
from services.inference.ports import GenerationRequest
from shared.errors import InvalidInputError

REPORT = f"{HOME}/report.xml"
BEGIN_REPORT = "\nREPORT\n"
ANSWER_TOKENS = 1024
RUN_TESTS = (
    "import sys, pytest\n"
    f"pytest.main(['-q', '-p', 'no:cacheprovider', '--junit-xml={REPORT}', '--timeout=20', '.'])\n"
    f"sys.stdout.flush(); print({BEGIN_REPORT!r} + open({REPORT!r}).read())\n"
)


class GenerateTestsInput(Input):
    """A module, and how long its tests may take together."""

    code: str = Field(min_length=1, max_length=200_000)
    module: str = Field(default="subject", pattern=r"^[a-z_][a-z0-9_]{0,60}$")
    timeout_s: float = Field(default=60.0, gt=0, le=600)
    most_edge_cases: int = Field(default=40, ge=0, le=400)


class GeneratedTest(BaseModel):
    """A test that has been run, and how it ended."""

    name: str
    code: str
    origin: Literal["property", "edge_case", "model"]
    passed: bool
    output: str


class EdgeCase(BaseModel):
    """What a function did with an edge case."""

    function: str
    arguments: str
    result: str | None = None
    raises: str | None = None


class GenerateTestsOutput(BaseModel):
    """Tests with their verdicts, and the edge cases that were tried."""

    tests: list[GeneratedTest]
    edge_cases: list[EdgeCase]
    passed: int
    failed: int
    isolation: str


class GenerateTests:
    """One module a job."""

    name = "generate-tests"
    input = GenerateTestsInput
    output = GenerateTestsOutput
    max_batch = 1

    def run(self, inputs: Sequence[GenerateTestsInput], context: RunContext) -> list[BaseModel | BaseException]:
        """Write and run the tests of each module."""
        return each(lambda item, index: _Session(item, index, context).run(), inputs)


class _Session:
    """One module's way through the sandbox."""

    def __init__(self, item: GenerateTestsInput, index: int, context: RunContext) -> None:
        self._item, self._index, self._context = item, index, context
        self._sandbox = Sandbox(context.models.sandbox)

    def run(self) -> GenerateTestsOutput:
        check_module(self._item.code)
        cases = self._edge_cases()
        self._context.progress(self._index, 0.3)
        programs = self._properties() + self._characterizations(cases) + self._by_model()
        self._context.progress(self._index, 0.6)
        judged = self._judge([code for _, code in programs])
        tests = [
            GeneratedTest(
                name=", ".join(function_names(code)) or "none",
                code=code,
                origin=origin,
                passed=verdict.passed,
                output=verdict.output,
            )
            for (origin, code), verdict in zip(programs, judged, strict=True)
        ]
        shown = [EdgeCase.model_validate({k: c.get(k) for k in EdgeCase.model_fields}) for c in cases]
        passed = sum(t.passed for t in tests)
        return GenerateTestsOutput(
            tests=tests,
            edge_cases=shown,
            passed=passed,
            failed=len(tests) - passed,
            isolation=self._sandbox.isolation,
        )

    def _edge_cases(self) -> list[dict[str, Any]]:
        finished = self._start("edge_cases.py")
        found = [json.loads(line[5:]) for line in finished.output.splitlines() if line.startswith("CASE ")]
        if not found and finished.timed_out:
            raise InvalidInputError("code", f"{self._item.timeout_s} s", "did not end in time when it was tried")
        if not found and finished.code != 0:
            last = (finished.output.strip().splitlines() or [f"exit code {finished.code}"])[-1]
            raise InvalidInputError("code", f"exit code {finished.code}", f"cannot be imported: {last[:300]}")
        return found[: self._item.most_edge_cases]

    def _properties(self) -> list[tuple[Literal["property", "edge_case", "model"], str]]:
        finished = self._start("ghostwriter.py")
        lines = [line[5:] for line in finished.output.splitlines() if line.startswith("TEST ")]
        return [("property", json.loads(line)["code"]) for line in lines]

    def _characterizations(
        self, cases: list[dict[str, Any]]
    ) -> list[tuple[Literal["property", "edge_case", "model"], str]]:
        written = (characterization(case, self._item.module, i) for i, case in enumerate(cases))
        return [("edge_case", code) for code in written if code]

    def _by_model(self) -> list[tuple[Literal["property", "edge_case", "model"], str]]:
        models = self._context.models
        if models.code_model is None:
            return []
        prompt = (
            f"Write pytest tests for the module `{self._item.module}`. Import it, test edge cases.\n\n"
            f"```python\n{self._item.code}\n```\n\n```python\n"
        )
        model = generator(models, models.code_model, "code_model")
        request = GenerationRequest(prompt, ANSWER_TOKENS, stop=("\n```",))
        answer = model.start(request, lambda _: None, lambda: self._context.cancelled(self._index)).result()
        code = first_code_block(answer.text)
        return [("model", code)] if function_names(code) else []

    def _judge(self, programs: list[str]) -> list[Verdict]:
        tests = {f"test_{i}.py": code for i, code in enumerate(programs)}
        finished = self._sandboxed(tests | {"run_tests.py": RUN_TESTS}, ["run_tests.py"])
        log, _, report = finished.output.partition(BEGIN_REPORT)
        found = verdicts(report.strip())
        why = "did not end in time" if finished.timed_out else log[-2000:]
        return [found.get(f"test_{i}", Verdict(passed=False, output=why)) for i in range(len(programs))]

    def _start(self, program: str) -> Finished:
        text = (files("services.inference.sandboxed") / program).read_text(encoding="utf-8")
        return self._sandboxed({program: text}, [program, self._item.module])

    def _sandboxed(self, programs: dict[str, str], arguments: list[str]) -> Finished:
        return self._sandbox.run(
            programs | {f"{self._item.module}.py": self._item.code},
            arguments,
            self._context.scratch.folder,
            timeout_s=self._item.timeout_s,
            cancelled=lambda: self._context.cancelled(self._index),
        )


KIND = GenerateTests()
