"""summarize: a text to its main points; extractive with sentence embeddings, or by a configured model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from accelerator_autopilot.contracts.kinds.summarize import Summarize, SummarizeResult
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.model_loading import encoder, summarizer

# Sentence ends in the scripts that use them, and line breaks of lists and headings. The lookahead stays within its
# line: beyond it, runs of blank lines would take quadratic time.
_BOUNDARY = re.compile(r"(?<=[.!?।؟])\s+|(?<=[。！？])\s*|\n{2,}|\n(?=[^\S\n]*+(?:[-*#|]|\d++\.))")  # noqa: RUF001
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MIN_SENTENCE = 20
MIN_PROSE_SHARE = 0.75
MAX_SENTENCES = 2000
DIVERSITY = 0.3


class SummarizeKind:
    """One text at a time: they differ too much in length to be batched."""

    name = "summarize"
    input = Summarize
    output = SummarizeResult
    max_batch = 1

    def run(self, inputs: Sequence[Summarize], context: RunContext) -> list[BaseModel | BaseException]:
        """Summarise each text."""
        return each(lambda item, _: self._one(item, context), inputs)

    def _one(self, item: Summarize, context: RunContext) -> BaseModel:
        name = context.models.summarize_model
        if name:
            text = summarizer(context.models, name).summarize(item.text)
            return SummarizeResult(summary=text, sentences=split(text), method="generative", model=name)
        sentences = split(item.text)[:MAX_SENTENCES]
        model = encoder(context.models)
        chosen = choose(model.encode(sentences), item.max_sentences)
        kept = [sentences[i] for i in chosen]
        return SummarizeResult(summary=" ".join(kept), sentences=kept, method="extractive", model=model.name)


def split(text: str) -> list[str]:
    """Return the sentences of a text, without code, drawings, tables and fragments unless there is nothing else."""
    parts = [" ".join(part.split()) for part in _BOUNDARY.split(_FENCED.sub("", text))]
    parts = [part for part in parts if part]
    return [part for part in parts if len(part) >= MIN_SENTENCE and _is_prose(part)] or parts or [text]


def _is_prose(part: str) -> bool:
    if part.startswith("|"):
        return False
    return sum(c.isalpha() or c.isspace() for c in part) >= MIN_PROSE_SHARE * len(part)


def choose(vectors: np.ndarray[Any, Any], count: int) -> list[int]:
    """Indices, in order, of the sentences nearest to the centroid that repeat each other least.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) with lambda = 0.7.
    """
    centroid = vectors.mean(axis=0)
    relevance = vectors @ (centroid / max(float(np.linalg.norm(centroid)), 1e-9))
    chosen: list[int] = []
    while len(chosen) < min(count, len(vectors)):
        repeated = (vectors @ vectors[chosen].T).max(axis=1) if chosen else np.zeros(len(vectors))
        score = (1 - DIVERSITY) * relevance - DIVERSITY * repeated
        score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
    return sorted(chosen)


KIND = SummarizeKind()
