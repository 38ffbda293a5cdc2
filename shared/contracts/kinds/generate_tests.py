"""generate-tests: write tests for a Python module; each is run before it is returned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples

Origin = Literal["property", "edge_case", "model"]


class GeneratedTest(BaseModel):
    """A test that has been run, and its outcome."""

    name: str
    code: str
    origin: Origin
    passed: bool
    output: str


class EdgeCase(BaseModel):
    """The result of a function for an edge case."""

    function: str
    arguments: str
    result: str | None = None
    raises: str | None = None


class GenerateTestsResult(Result, Tabular):
    """Tests with their outcomes, and the edge cases that were tried."""

    tests: list[GeneratedTest]
    edge_cases: list[EdgeCase]
    passed: int
    failed: int
    isolation: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per test."""
        return [t.model_dump() for t in self.tests]


class GenerateTests(Payload[GenerateTestsResult]):
    """A Python module, and the time that all its tests together may take (seconds)."""

    kind_name = "generate-tests"
    result_model = GenerateTestsResult
    model_config = examples({"code": "def double(x: int) -> int:\n    return 2 * x\n", "most_edge_cases": 3})

    code: str = Field(min_length=1, max_length=200_000)
    module: str = Field(default="subject", pattern=r"^[a-z_][a-z0-9_]{0,60}$")
    timeout_s: float = Field(default=60.0, gt=0, le=600)
    most_edge_cases: int = Field(default=40, ge=0, le=400)
