"""extract: key findings, and the fields of a given JSON schema, from clinical, financial or any other text.

Every value comes with the span of the text that it was taken from. With a configured causal model, the model proposes
the values; proposals that do not occur verbatim in the text are dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from accelerator_autopilot.contracts.kinds.extract import Extract, ExtractResult, Finding, Value
from accelerator_autopilot.inference.domain import field_extraction
from accelerator_autopilot.inference.domain.schema_fields import Field as SchemaField
from accelerator_autopilot.inference.domain.schema_fields import fields_of
from accelerator_autopilot.inference.kinds.base import RunContext, Tokens, each
from accelerator_autopilot.inference.kinds.summarize import choose
from accelerator_autopilot.inference.model_loading import encoder, generator
from accelerator_autopilot.inference.ports import GenerationRequest

# A label in the text outweighs any similarity.
LABELLED_BONUS = 1.0
MIN_SIMILARITY = 0.15
ANSWER_TOKENS = 512


class ExtractKind:
    """One text a job."""

    name = "extract"
    input = Extract
    output = ExtractResult
    max_batch = 8

    def run(self, inputs: Sequence[Extract], context: RunContext) -> list[BaseModel | BaseException]:
        """Extract from each text."""
        return each(lambda item, index: self._one(item, index, context), inputs)

    def _one(self, item: Extract, index: int, context: RunContext) -> ExtractResult:
        fields = fields_of(item.schema_) if item.schema_ is not None else []
        name = context.models.generate_model
        if name and fields:
            found = _by_model(item, fields, index, context)
        else:
            document = field_extraction.Document(item.text)
            found = {field.name: _by_rules(field, document, context) for field in fields}
        return ExtractResult(
            fields=found,
            missing=[f.name for f in fields if f.required and not found[f.name]],
            findings=_findings(item, context),
            method="model" if name and fields else "rules",
            model=name or context.models.embed_model,
        )


def _by_rules(
    field: SchemaField, document: field_extraction.Document, context: RunContext
) -> Value | list[Value] | None:
    options, text = field_extraction.candidates(field, document), document.text
    if not options:
        return [] if field.type == "array" else None
    model = encoder(context.models)
    likeness = model.encode([c.context for c in options]) @ model.encode([field.wanted])[0]
    scores = likeness + np.array([LABELLED_BONUS * c.labelled for c in options])
    values = [
        Value(value=c.value, start=c.start, end=c.end, text=text[c.start : c.end], confidence=_confidence(float(s)))
        for c, s in zip(options, scores, strict=True)
        if s >= MIN_SIMILARITY or not field_extraction.free(field)
    ]
    if field.type == "array":
        return values
    return max(values, key=lambda v: v.confidence, default=None)


def _confidence(score: float) -> float:
    return round(min(1.0, max(0.0, score)), 3)


def _by_model(
    item: Extract, fields: list[SchemaField], index: int, context: RunContext
) -> dict[str, Value | list[Value] | None]:
    asked = "\n".join(f"- {f.name} ({f.type}): {f.description}" for f in fields)
    prompt = (
        f"Text:\n{item.text}\n\nGive these fields as one JSON object, quoting the text word for word, null where the "
        f"text does not say:\n{asked}\nJSON:"
    )
    model = generator(context.models, context.models.generate_model)
    request = GenerationRequest(prompt, ANSWER_TOKENS)
    answer = model.start(request, lambda _: None, lambda: context.cancelled(index)).result()
    context.tokens[index] = Tokens(answer.prompt_tokens, answer.completion_tokens)
    proposed = _first_object(answer.text)
    return {f.name: _grounded(f, proposed.get(f.name), item.text) for f in fields}


def _first_object(text: str) -> dict[str, Any]:
    for match in re.finditer(r"\{", text):
        try:
            found, _ = json.JSONDecoder().raw_decode(text[match.start() :])
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _grounded(field: SchemaField, proposed: Any, text: str) -> Value | list[Value] | None:
    """Return the proposal where the text contains it; None otherwise."""
    if isinstance(proposed, list):
        values = [_grounded(field, one, text) for one in proposed]
        return [v for v in values if isinstance(v, Value)]
    raw = "" if proposed is None else str(proposed)
    start = text.lower().find(raw.lower()) if raw else -1
    if start < 0:
        return [] if field.type == "array" else None
    quoted = text[start : start + len(raw)]
    value = field_extraction.convert(field, quoted)
    if value is None:
        return None
    return Value(value=value, start=start, end=start + len(raw), text=quoted, confidence=1.0)


def _findings(item: Extract, context: RunContext) -> list[Finding]:
    spans = field_extraction.sentences(item.text)[:2000]
    if not spans or not item.findings:
        return []
    vectors = encoder(context.models).encode([item.text[a:b] for a, b in spans])
    return [
        Finding(text=item.text[spans[i][0] : spans[i][1]], start=spans[i][0], end=spans[i][1])
        for i in choose(vectors, item.findings)
    ]


KIND = ExtractKind()
