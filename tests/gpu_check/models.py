"""Models of real size with random weights, made from a configuration: no hub is needed."""

from __future__ import annotations

import io
import random
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

VOCABULARY = 2000
TOKENS = 32  # that a generation makes
IMAGES = 8  # in one job


@dataclass(frozen=True)
class Geometry:
    """Sizes of the models: those of all-MiniLM-L6, GPT-2 and ViT-B/16, or tiny ones for a rehearsal."""

    encoder: dict[str, int]
    causal: dict[str, int]
    vision: dict[str, int]


REAL = Geometry(
    {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    {"n_embd": 768, "n_layer": 12, "n_head": 12},
    {"image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
     "intermediate_size": 3072},
)  # fmt: skip
TINY = Geometry(
    {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    {"n_embd": 32, "n_layer": 1, "n_head": 2},
    {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
     "intermediate_size": 32},
)  # fmt: skip


def tokenizer() -> Any:
    words = ["<pad>", "</s>", "<unk>", *(f"word{i}" for i in range(VOCABULARY - 3))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def save_all(folder: Path, geometry: Geometry) -> dict[str, str]:
    """Write the models. Returns the settings that name them."""
    torch.manual_seed(1)
    bert = {"vocab_size": VOCABULARY, "max_position_embeddings": 512, "pad_token_id": 0} | geometry.encoder
    made: dict[str, Any] = {
        "embed": BertModel(BertConfig(**bert), add_pooling_layer=False),
        "classify": BertForSequenceClassification(BertConfig(**bert, num_labels=5)),
        # An end of text that the vocabulary lacks: every generation has its full length.
        "generate": GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_positions=512, bos_token_id=1, eos_token_id=1, **geometry.causal)
        ),
        "image": ViTForImageClassification(ViTConfig(**geometry.vision, num_labels=10)),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
        if name != "image":
            tokenizer().save_pretrained(folder / name)
    size = geometry.vision["image_size"]
    ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder / "image")
    return {f"AUTOPILOT_{name.upper()}_MODEL": str(folder / name) for name in made}


def texts(count: int, words: int = 24, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"word{draw.randrange(VOCABULARY - 3)}" for _ in range(words)) for _ in range(count)]


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (224, 224, 3), dtype=np.uint8))


def payloads(kind: str, count: int) -> list[dict[str, Any]]:
    """So many jobs of a kind."""
    if kind == "generate":
        return [{"prompt": t, "max_tokens": TOKENS} for t in texts(count)]
    if kind == "classify-image":
        encoded = []
        for seed in range(16):
            out = io.BytesIO()
            image(seed).save(out, "PNG")
            encoded.append(b64encode(out.getvalue()).decode())
        files = [{"name": f"{i}.png", "base64": content} for i, content in enumerate(encoded[:IMAGES])]
        return [{"files": files, "top": 1}] * count
    return [{"texts": [t]} for t in texts(count)]
