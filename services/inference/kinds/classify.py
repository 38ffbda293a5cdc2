"""classify: texts to labels; by likeness to the labels' descriptions, or by a configured sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from services.inference.kinds.base import Input, RunContext, each
from services.inference.models import encoder, text_classifier
from shared.errors import InvalidInputError

# Cosines of sentence embeddings lie close together; CLIP's learned scale (Radford et al., 2021) spreads them.
SCALE = 20.0


class ClassifyInput(Input):
    """Texts, and the labels to choose from: names, or names with a description each."""

    texts: list[str] = Field(min_length=1, max_length=4096)
    labels: list[str] | dict[str, str] | None = Field(default=None, description="none takes the model's own")
    multi_label: bool = Field(default=False, description="score each label for itself, not against the others")


class Classified(BaseModel):
    """The best label of a text, and every label's score."""

    label: str
    score: float
    scores: dict[str, float]


class ClassifyOutput(BaseModel):
    """One entry a text."""

    results: list[Classified]
    method: Literal["zero_shot", "classifier"]
    model: str


class Classify:
    """Zero-shot by embeddings unless a classifier is configured and no labels are given."""

    name = "classify"
    input = ClassifyInput
    output = ClassifyOutput
    max_batch = 64

    def run(self, inputs: Sequence[ClassifyInput], context: RunContext) -> list[BaseModel | BaseException]:
        """Classify each input's texts."""
        return each(lambda item, _: self._one(item, context), inputs)

    def _one(self, item: ClassifyInput, context: RunContext) -> ClassifyOutput:
        if not item.labels:
            name = context.models.classify_model
            if name is None:
                raise InvalidInputError("labels", None, "must be given: no classifier is configured")
            model = text_classifier(context.models, name)
            scores = model.scores(item.texts)
            return ClassifyOutput(results=[_best(s) for s in scores], method="classifier", model=name)
        described = item.labels if isinstance(item.labels, dict) else {label: label for label in item.labels}
        if len(described) < 2 and not item.multi_label:
            raise InvalidInputError("labels", list(described), "needs at least two")
        encoder_ = encoder(context.models)
        likeness = encoder_.encode(item.texts) @ encoder_.encode(list(described.values())).T
        rows = _probabilities(likeness, multi_label=item.multi_label)
        results = [_best({name: float(row[i]) for i, name in enumerate(described)}) for row in rows]
        return ClassifyOutput(results=results, method="zero_shot", model=encoder_.name)


def _probabilities(likeness: np.ndarray[Any, Any], *, multi_label: bool) -> np.ndarray[Any, Any]:
    if multi_label:
        return 1 / (1 + np.exp(-SCALE * (likeness - 0.25)))
    spread = np.exp(SCALE * (likeness - likeness.max(axis=1, keepdims=True)))
    return np.asarray(spread / spread.sum(axis=1, keepdims=True))


def _best(scores: dict[str, float]) -> Classified:
    label = max(scores, key=scores.__getitem__)
    return Classified(label=label, score=scores[label], scores=scores)


KIND = Classify()
