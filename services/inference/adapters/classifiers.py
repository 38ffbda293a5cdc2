"""Sequence and image classifiers through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from accelerator_autopilot.inference.adapters.torch_loading import TRUSTED, load_model, place, precision, weights
from accelerator_autopilot.inference.settings import ModelSettings

BATCH = 32
Scores = list[dict[str, float]]


def _labelled(logits: torch.Tensor, names: dict[int, str]) -> Scores:
    return [
        {names[i]: float(p) for i, p in enumerate(row)} for row in torch.softmax(logits.float(), dim=1).cpu().tolist()
    ]


class TextClassifier:
    """A model with a classification head for a fixed set of labels."""

    def __init__(self, name: str, models: ModelSettings) -> None:
        self.name, self._device = name, place(models)
        self._tokenizer: Any = load_model(
            "classify_model", name, lambda: AutoTokenizer.from_pretrained(name, **TRUSTED)
        )
        self._model: Any = load_model(
            "classify_model",
            name,
            lambda: AutoModelForSequenceClassification.from_pretrained(name, **weights(models)),
            models,
        )
        self._names = dict(self._model.config.id2label)

    @property
    def labels(self) -> list[str]:
        """The labels that the model can assign."""
        return list(self._names.values())

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> Scores:
        """The probability of each label for each text."""
        found: Scores = []
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            tokens = self._tokenizer(part, padding=True, truncation=True, return_tensors="pt").to(self._device)
            found += _labelled(self._model(**tokens).logits, self._names)
        return found


class ImageClassifier:
    """A vision model with a classification head for a fixed set of labels."""

    def __init__(self, name: str, models: ModelSettings) -> None:
        self.name, self._device, self._dtype = name, place(models), precision(models)
        # torchvision has no build for every platform that torch has.
        self._processor: Any = load_model(
            "image_model",
            name,
            lambda: AutoImageProcessor.from_pretrained(name, use_fast=False, **TRUSTED),  # type: ignore[no-untyped-call]
        )
        self._model: Any = load_model(
            "image_model",
            name,
            lambda: AutoModelForImageClassification.from_pretrained(name, **weights(models)),
            models,
        )
        self._names = dict(self._model.config.id2label)

    @torch.inference_mode()
    def scores(self, images: Sequence[Image]) -> Scores:
        """The probability of each label for each image (RGB)."""
        found: Scores = []
        for start in range(0, len(images), BATCH):
            inputs = self._processor(list(images[start : start + BATCH]), return_tensors="pt")
            pixels = inputs["pixel_values"].to(self._device, self._dtype)
            found += _labelled(self._model(pixel_values=pixels).logits, self._names)
        return found
