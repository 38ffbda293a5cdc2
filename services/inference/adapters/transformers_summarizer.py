"""A seq2seq or causal transformers model that summarises long texts by map-reduce."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from accelerator_autopilot.inference.adapters.torch_loading import TRUSTED, load_model, loading, place
from accelerator_autopilot.inference.settings import ModelSettings

NEW_TOKENS = 128
DEFAULT_CONTEXT = 512


class TransformersSummarizer:
    """One model on one device."""

    def __init__(self, name: str, models: ModelSettings) -> None:
        self.name, self._device = name, place(models)
        config: Any = load_model("summarize_model", name, lambda: AutoConfig.from_pretrained(name, **TRUSTED))
        self._tokenizer: Any = load_model(
            "summarize_model", name, lambda: AutoTokenizer.from_pretrained(name, **TRUSTED)
        )
        self._seq2seq = bool(config.is_encoder_decoder)
        family: Any = AutoModelForSeq2SeqLM if self._seq2seq else AutoModelForCausalLM
        self._model: Any = load_model(
            "summarize_model", name, lambda: family.from_pretrained(name, **loading(models)), models
        )
        context = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        self._context = int(context or DEFAULT_CONTEXT)

    def summarize(self, text: str) -> str:
        """Summarise pieces that fit the context, then their summaries, until one is left."""
        room = self._context - (0 if self._seq2seq else NEW_TOKENS) - 32
        while True:
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if not ids:
                return ""
            pieces = [ids[i : i + room] for i in range(0, len(ids), room)]
            parts = [self._generate(self._tokenizer.decode(piece)) for piece in pieces]
            joined = "\n".join(parts)
            # A model that does not shorten its input would never finish.
            if len(pieces) == 1 or len(joined) >= len(text):
                return joined
            text = joined

    @torch.inference_mode()
    def _generate(self, text: str) -> str:
        prompt = text if self._seq2seq else f"{text}\n\nSummary:"
        limit = self._context - (0 if self._seq2seq else NEW_TOKENS)
        tokens = self._tokenizer(prompt, return_tensors="pt", truncation=True, max_length=limit).to(self._device)
        tokens.pop("token_type_ids", None)
        padding = self._tokenizer.pad_token_id
        out = self._model.generate(
            **tokens,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id if padding is None else padding,
        )
        new = out[0] if self._seq2seq else out[0][tokens["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(new, skip_special_tokens=True)).strip()
