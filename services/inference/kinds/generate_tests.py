"""generate-tests: tests for a Python module, each of them run in a sandbox before it is returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from typing import Any

from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.generate_tests import (
    EdgeCase,
    GeneratedTest,
    GenerateTests,
    GenerateTestsResult,
    Origin,
)
from accelerator_autopilot.inference.adapters.sandbox import HOME, Finished, Sandbox
from accelerator_autopilot.inference.domain.test_generation import (
    Verdict,
    characterization,
    check_module,
    first_code_block,
    function_names,
    printed_objects,
    verdicts,
)
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.model_loading import generator
from accelerator_autopilot.inference.ports import GenerationRequest

ANSWER_TOKENS = 1024
OUTPUT_BYTES = 8 * 2**20
# Share of the job's time limit; the rest is for starting the interpreter and reporting.
PART = 0.85


class GenerateTestsKind:
    """One module a job."""

    name = "generate-tests"
    input = GenerateTests
    output = GenerateTestsResult
    max_batch = 1

    def run(self, inputs: Sequence[GenerateTests], context: RunContext) -> list[BaseModel | BaseException]:
        """Write and run the tests of each module."""
        return each(lambda item, index: _Session(item, index, context).run(), inputs)


class _Session:
    """One module's session in the sandbox."""

    def __init__(self, item: GenerateTests, index: int, context: RunContext) -> None:
        self._item, self._index, self._context = item, index, context
        self._sandbox = Sandbox(context.models.sandbox, context.models.sandbox_uid)

    def run(self) -> GenerateTestsResult:
        check_module(self._item.module, self._item.code)
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
        return GenerateTestsResult(
            tests=tests,
            edge_cases=shown,
            passed=passed,
            failed=len(tests) - passed,
            isolation=self._sandbox.isolation,
        )

    def _edge_cases(self) -> list[dict[str, Any]]:
        finished = self._start("edge_cases.py", f"{PART * self._item.timeout_s:.1f}")
        imported = "IMPORTED" in finished.output.splitlines()
        if not imported and finished.timed_out:
            raise InvalidInputError("code", f"{self._item.timeout_s} s", "did not finish in time when it was imported")
        if not imported:
            last = (finished.output.strip().splitlines() or [f"exit code {finished.code}"])[-1]
            ended = "" if finished.end == "exit" else f"ended for its {finished.end}; "
            raise InvalidInputError("code", f"exit code {finished.code}", f"cannot be imported: {ended}{last[:300]}")
        cases = [c for c in printed_objects(finished.output, "CASE") if isinstance(c.get("plain"), bool)]
        readable = [c for c in cases if all(isinstance(c.get(k), str) for k in ("function", "arguments"))]
        return readable[: self._item.most_edge_cases]

    def _properties(self) -> list[tuple[Origin, str]]:
        finished = self._start("ghostwriter.py")
        return [("property", str(test.get("code", ""))) for test in printed_objects(finished.output, "TEST")]

    def _characterizations(self, cases: list[dict[str, Any]]) -> list[tuple[Origin, str]]:
        written = (characterization(case, self._item.module, i) for i, case in enumerate(cases))
        return [("edge_case", code) for code in written if code]

    def _by_model(self) -> list[tuple[Origin, str]]:
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
        tests = {f"program/test_{i}.py": code for i, code in enumerate(programs)}
        finished = self._start("run_tests.py", f"{PART * self._item.timeout_s:.1f}", files=tests)
        found = verdicts(printed_objects(finished.output, "RESULT"))
        why = "was not run: " + ("the time was used up" if finished.end in {"time", "exit"} else finished.end)
        return [found.get(f"test_{i}", Verdict(passed=False, output=why)) for i in range(len(programs))]

    def _start(self, program: str, *arguments: str, files: Mapping[str, str] | None = None) -> Finished:
        text = (resources("accelerator_autopilot.inference.sandboxed") / program).read_text(encoding="utf-8")
        own = {f"tools/{program}": text, f"program/{self._item.module}.py": self._item.code}
        first = [] if program == "run_tests.py" else [self._item.module]
        return self._sandbox.run(
            own | dict(files or {}),
            [f"{HOME}/tools/{program}", *first, *arguments],
            timeout_s=self._item.timeout_s,
            cancelled=lambda: self._context.cancelled(self._index),
            output_bytes=OUTPUT_BYTES,
        )


KIND = GenerateTestsKind()
