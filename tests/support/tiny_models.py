"""Real transformers models, built in a second with random weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

SEED = 1  # random weights may end a text at its first word: one seed, one text
WORDS = ["<pad>", "</s>", "<unk>", "one", "two", "three", "Summary", ":"]


def _tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save_tiny_seq2seq(folder: Path) -> Path:
    torch.manual_seed(SEED)
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        n_positions=128,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def save_tiny_causal(folder: Path) -> Path:
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


TINY_BERT = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip


def save_tiny_classifier(folder: Path) -> Path:
    BertForSequenceClassification(BertConfig(**TINY_BERT, num_labels=3)).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def save_tiny_vision(folder: Path) -> Path:
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=4,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def export_encoder(folder: Path) -> tuple[Path, Path]:
    """The same encoder for torch and for ONNX Runtime."""
    import torch

    torch_folder, onnx_folder = folder / "torch", folder / "onnx-model"
    model = BertModel(BertConfig(**TINY_BERT), add_pooling_layer=False).eval()
    model.save_pretrained(torch_folder)
    for each in (torch_folder, onnx_folder):
        _tokenizer().save_pretrained(each)

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones(2, 5, dtype=torch.long)
    axes = {0: "texts", 1: "tokens"}
    with warnings.catch_warnings():
        # The exporter tells of every branch that it takes as fixed.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Hidden(), (ids, torch.ones_like(ids)), str(onnx_folder / "model.onnx"), dynamo=False,
            input_names=["input_ids", "attention_mask"], output_names=["hidden"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
        )  # fmt: skip
    return torch_folder, onnx_folder
