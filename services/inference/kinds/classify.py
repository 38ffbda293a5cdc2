"""classify: texts to labels, by similarity to the labels' descriptions or with a configured sequence classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from accelerator_autopilot.contracts.errors import InvalidInputError
from accelerator_autopilot.contracts.kinds.classify import Classified, Classify, ClassifyResult
from accelerator_autopilot.inference.kinds.base import RunContext, each
from accelerator_autopilot.inference.model_loading import encoder, text_classifier

# Cosines of sentence embeddings are close together; CLIP's learned scale (Radford et al., 2021) spreads them.
SCALE = 20.0


class ClassifyKind:
    """Zero-shot by embeddings, unless a classifier is configured and no labels are given."""

    name = "classify"
    input = Classify
    output = ClassifyResult
    max_batch = 64

    def run(self, inputs: Sequence[Classify], context: RunContext) -> list[BaseModel | BaseException]:
        """Classify the texts of all inputs together; one by one they would underuse a GPU."""
        checked = each(lambda item, _: _checked(item, context), inputs)
        outputs: list[BaseModel | BaseException] = list(checked)
        described = [i for i, item in enumerate(inputs) if isinstance(checked[i], BaseModel) and item.labels]
        own = [i for i, item in enumerate(inputs) if isinstance(checked[i], BaseModel) and not item.labels]
        for indices, classify in ((described, _by_likeness), (own, _by_classifier)):
            if indices:
                answers = classify([inputs[i] for i in indices], context)
                for index, answer in zip(indices, answers, strict=True):
                    outputs[index] = answer
        return outputs


def _checked(item: Classify, context: RunContext) -> Classify:
    if not item.labels and context.models.classify_model is None:
        raise InvalidInputError("labels", None, "are required because no classifier is configured")
    if item.labels and len(set(item.labels)) < 2 and not item.multi_label:
        raise InvalidInputError("labels", list(item.labels), "must have at least two entries")
    return item


def _by_classifier(items: Sequence[Classify], context: RunContext) -> list[ClassifyResult]:
    name = str(context.models.classify_model)
    rows = iter(text_classifier(context.models, name).scores([text for item in items for text in item.texts]))
    return [
        ClassifyResult(results=[_best(next(rows)) for _ in item.texts], method="classifier", model=name)
        for item in items
    ]


def _by_likeness(items: Sequence[Classify], context: RunContext) -> list[ClassifyResult]:
    model = encoder(context.models)
    described = [item.labels if isinstance(item.labels, dict) else {n: n for n in item.labels or ()} for item in items]
    texts = [text for item in items for text in item.texts]
    meanings = list(dict.fromkeys(meaning for labels in described for meaning in labels.values()))
    vectors = model.encode([*texts, *meanings])
    place_of = {meaning: len(texts) + i for i, meaning in enumerate(meanings)}
    outputs, start = [], 0
    for item, labels in zip(items, described, strict=True):
        likeness = vectors[start : start + len(item.texts)] @ vectors[[place_of[m] for m in labels.values()]].T
        start += len(item.texts)
        rows = _probabilities(likeness, multi_label=item.multi_label)
        results = [_best({name: float(row[i]) for i, name in enumerate(labels)}) for row in rows]
        outputs.append(ClassifyResult(results=results, method="zero_shot", model=model.name))
    return outputs


def _probabilities(likeness: np.ndarray[Any, Any], *, multi_label: bool) -> np.ndarray[Any, Any]:
    if multi_label:
        return 1 / (1 + np.exp(-SCALE * (likeness - 0.25)))
    spread = np.exp(SCALE * (likeness - likeness.max(axis=1, keepdims=True)))
    return np.asarray(spread / spread.sum(axis=1, keepdims=True))


def _best(scores: dict[str, float]) -> Classified:
    label = max(scores, key=scores.__getitem__)
    return Classified(label=label, score=scores[label], scores=scores)


KIND = ClassifyKind()
