"""A sentence-transformer through transformers: mean pooling over tokens, unit vectors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from accelerator_autopilot.inference.adapters.torch_loading import TRUSTED, load_model, place, weights
from accelerator_autopilot.inference.settings import ModelSettings

BATCH = 64
CONTEXT_TOKENS = 256


class TransformersEncoder:
    """One model on one device."""

    def __init__(self, name: str, path: str, models: ModelSettings) -> None:
        self.name, self._device = name, place(models)
        self._tokenizing = threading.Lock()
        self._tokenizer: Any = load_model("embed_model", name, lambda: AutoTokenizer.from_pretrained(path, **TRUSTED))
        self._model = load_model(
            "embed_model", name, lambda: AutoModel.from_pretrained(path, **weights(models)), models
        )

    def encode(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Encode texts as an array [texts, dimensions] of unit vectors, in the order given."""
        return self.encode_counted(texts)[0]

    @torch.inference_mode()
    def encode_counted(self, texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], list[int]]:
        """Encode texts, and return the number of tokens that the model read of each."""
        counts = [0] * len(texts)
        # Batching texts of similar length wastes the least padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            # Kinds that run concurrently share the model, and a tokenizer does not allow concurrent use.
            with self._tokenizing:
                tokens = self._tokenizer(
                    [texts[i] for i in part],
                    padding=True,
                    truncation=True,
                    max_length=CONTEXT_TOKENS,
                    return_tensors="pt",
                ).to(self._device)
            hidden = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            unit = torch.nn.functional.normalize(pooled.float(), dim=1).cpu().numpy()
            for i, row, read in zip(part, unit, tokens["attention_mask"].sum(1).tolist(), strict=True):
                rows[i], counts[i] = row, read
        return np.stack(rows), counts
