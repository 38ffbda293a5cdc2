"""extract: find key sentences and the fields of a JSON schema in a text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from accelerator_autopilot.contracts.dataframe_conversion import Tabular
from accelerator_autopilot.contracts.kinds.base import Payload, Result, examples


class Value(BaseModel):
    """A value, its position (in characters, end excluded) and its confidence."""

    value: Any
    start: int
    end: int
    text: str
    confidence: float


class Finding(BaseModel):
    """A key sentence and its position."""

    text: str
    start: int
    end: int


class ExtractResult(Result, Tabular):
    """Fields by name: null if the text has no value, a list for fields of type array."""

    fields: dict[str, Value | list[Value] | None]
    missing: list[str]
    findings: list[Finding]
    method: Literal["rules", "model"]
    model: str

    def rows(self) -> list[dict[str, Any]]:
        """One row per value, with the name of its field."""
        listed = [(name, v if isinstance(v, list) else [v]) for name, v in self.fields.items()]
        return [{"field": name} | v.model_dump() for name, values in listed for v in values if v is not None]


class Extract(Payload[ExtractResult]):
    """A text, and what to extract from it."""

    kind_name = "extract"
    result_model = ExtractResult
    model_config = examples(
        {
            "text": "Invoice 4711 of 3 May 2026. Amount due: 120.50 EUR.",
            "schema": {"type": "object", "properties": {"amount": {"type": "number", "description": "amount due"}}},
        }
    )

    text: str = Field(min_length=1, max_length=2_000_000)
    schema_: dict[str, Any] | None = Field(default=None, alias="schema", description="JSON schema with properties")
    findings: int = Field(default=5, ge=0, le=50, description="key sentences to return")
